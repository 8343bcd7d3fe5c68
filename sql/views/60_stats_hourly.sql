-- Likewise by the hour. Each hour is looked up by itself: a condition on "hour" reads only those.

CREATE OR REPLACE VIEW {stats_hourly} AS
WITH hours AS (
    SELECT hour
    FROM generate_series(
        (SELECT date_trunc('hour', min(finished_at), 'UTC') FROM {results}),
        (SELECT max(finished_at) FROM {results}),
        interval '1 hour') AS hour
)
SELECT hours.hour, counted.*
FROM hours
CROSS JOIN LATERAL (
    WITH histogram AS (
        SELECT task_name, duration_class, count(*) AS total, count(*) FILTER (WHERE failed) AS failed,
               count(execution_time) AS timed, sum(execution_time) AS seconds,
               max(execution_time) AS longest,
               count(wait) AS waited, sum(wait) AS wait_seconds, max(wait) AS longest_wait
        FROM (
            SELECT task_name, execution_time, status = 'FAILURE' AS failed,
                   floor(100 * ln(greatest(execution_time, 1e-6))) AS duration_class,
                   date_part('epoch', started_at - queued_at) AS wait
            FROM {results}
            WHERE finished_at >= hours.hour AND finished_at < hours.hour + interval '1 hour'
        ) AS measured
        GROUP BY task_name, duration_class
    ), cumulated AS (
        SELECT *,
               sum(timed) OVER (PARTITION BY task_name ORDER BY duration_class) AS timed_so_far,
               sum(timed) OVER (PARTITION BY task_name) AS timed_in_all
        FROM histogram
    )
    SELECT task_name,
           sum(total)::bigint                            AS total,
           sum(total)::bigint - sum(failed)::bigint      AS succeeded,
           sum(failed)::bigint                           AS failed,
           (sum(failed) / sum(total))::double precision  AS failure_rate,
           sum(seconds) / nullif(sum(timed), 0)::double precision AS average_duration,
           min(seconds / nullif(timed, 0)) FILTER (WHERE timed_so_far >= 0.50 * timed_in_all) AS p50_duration,
           min(seconds / nullif(timed, 0)) FILTER (WHERE timed_so_far >= 0.95 * timed_in_all) AS p95_duration,
           min(seconds / nullif(timed, 0)) FILTER (WHERE timed_so_far >= 0.99 * timed_in_all) AS p99_duration,
           max(longest)                                  AS max_duration,
           sum(wait_seconds) / nullif(sum(waited), 0)::double precision AS average_wait,
           max(longest_wait)                             AS max_wait
    FROM cumulated
    GROUP BY task_name
) AS counted;

COMMENT ON VIEW {stats_hourly} IS 'What each task does in each hour; add a condition on "hour", which makes it fast. Durations in seconds.';
COMMENT ON COLUMN {stats_hourly}.hour             IS 'When the hour begins that they ended in; hours are those of UTC.';
COMMENT ON COLUMN {stats_hourly}.task_name        IS 'The task''s name.';
COMMENT ON COLUMN {stats_hourly}.total            IS 'How many ended.';
COMMENT ON COLUMN {stats_hourly}.succeeded        IS 'How many of them succeeded.';
COMMENT ON COLUMN {stats_hourly}.failed           IS 'How many of them failed.';
COMMENT ON COLUMN {stats_hourly}.failure_rate     IS 'The share that failed, 0 to 1.';
COMMENT ON COLUMN {stats_hourly}.average_duration IS 'Seconds that they ran on average.';
COMMENT ON COLUMN {stats_hourly}.p50_duration     IS 'Seconds within which half of them ended; within 1 % as the other percentiles.';
COMMENT ON COLUMN {stats_hourly}.p95_duration     IS 'Seconds within which 95 % of them ended.';
COMMENT ON COLUMN {stats_hourly}.p99_duration     IS 'Seconds within which 99 % of them ended.';
COMMENT ON COLUMN {stats_hourly}.max_duration     IS 'Seconds that the longest ran.';
COMMENT ON COLUMN {stats_hourly}.average_wait     IS 'Seconds from being sent to being started, on average.';
COMMENT ON COLUMN {stats_hourly}.max_wait         IS 'Seconds that the one waited that waited longest.';
