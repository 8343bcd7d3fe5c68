-- What each task does. Durations are counted in classes of 1 %; a percentile is the mean of its class.

CREATE OR REPLACE VIEW {stats} AS
WITH histogram AS (
    SELECT task_name, duration_class, count(*) AS total, count(*) FILTER (WHERE failed) AS failed,
           count(execution_time) AS timed, sum(execution_time) AS seconds,
           max(execution_time) AS longest,
           count(wait) AS waited, sum(wait) AS wait_seconds, max(wait) AS longest_wait,
           max(finished_at) AS last_finished_at
    FROM (
        SELECT task_name, execution_time, status = 'FAILURE' AS failed, finished_at,
               floor(100.5 * ln(greatest(execution_time, 1e-6))) AS duration_class,
               date_part('epoch', started_at - queued_at) AS wait
        FROM {results}
        WHERE finished_at IS NOT NULL AND (expires_at IS NULL OR expires_at > now())
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
       max(longest_wait)                             AS max_wait,
       max(last_finished_at)                         AS last_finished_at
FROM cumulated
GROUP BY task_name;

COMMENT ON VIEW {stats} IS 'What each task does, of all that is stored and has not expired: how many, how many failed, how long. Durations in seconds.';
COMMENT ON COLUMN {stats}.task_name        IS 'The task''s name.';
COMMENT ON COLUMN {stats}.total            IS 'How many ended.';
COMMENT ON COLUMN {stats}.succeeded        IS 'How many of them succeeded.';
COMMENT ON COLUMN {stats}.failed           IS 'How many of them failed.';
COMMENT ON COLUMN {stats}.failure_rate     IS 'The share that failed, 0 to 1.';
COMMENT ON COLUMN {stats}.average_duration IS 'Seconds that they ran on average.';
COMMENT ON COLUMN {stats}.p50_duration     IS 'Seconds within which half of them ended; within 1 % as the other percentiles.';
COMMENT ON COLUMN {stats}.p95_duration     IS 'Seconds within which 95 % of them ended.';
COMMENT ON COLUMN {stats}.p99_duration     IS 'Seconds within which 99 % of them ended.';
COMMENT ON COLUMN {stats}.max_duration     IS 'Seconds that the longest ran.';
COMMENT ON COLUMN {stats}.average_wait     IS 'Seconds from being sent to being started, on average.';
COMMENT ON COLUMN {stats}.max_wait         IS 'Seconds that the one waited that waited longest.';
COMMENT ON COLUMN {stats}.last_finished_at IS 'When the latest of them ended.';
