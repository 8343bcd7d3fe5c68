-- What each task does in each hour. Each hour is looked up by itself: a condition on "hour" reads only those.

CREATE OR REPLACE VIEW {stats_hourly} AS
WITH hours AS (
    SELECT hour
    FROM generate_series(
        (SELECT date_trunc('hour', min(finished_at), 'UTC') FROM {results} WHERE finished_at > '-infinity'),
        (SELECT max(finished_at) FROM {results} WHERE finished_at < 'infinity'),
        interval '1 hour') AS hour
)
SELECT hours.hour, counted.*
FROM hours
CROSS JOIN LATERAL (
    SELECT task_name,
           count(*)                                          AS total,
           count(*) FILTER (WHERE status <> 'FAILURE')       AS succeeded,
           count(*) FILTER (WHERE status = 'FAILURE')        AS failed,
           count(*) FILTER (WHERE status = 'FAILURE') / count(*)::double precision AS failure_rate,
           sum(execution_time) / nullif(count(execution_time), 0) AS average_duration,
           percentile_disc(0.50) WITHIN GROUP (ORDER BY execution_time) AS p50_duration,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY execution_time) AS p95_duration,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY execution_time) AS p99_duration,
           max(execution_time)                               AS max_duration,
           avg(date_part('epoch', started_at - queued_at))   AS average_wait,
           max(date_part('epoch', started_at - queued_at))   AS max_wait
    FROM {results}
    WHERE finished_at >= hours.hour AND finished_at < hours.hour + interval '1 hour'
      AND (expires_at IS NULL OR expires_at > now())
    GROUP BY task_name
) AS counted;

COMMENT ON VIEW {stats_hourly} IS 'What each task does in each hour, of all that has not expired; add a condition on "hour", which makes it fast. Durations in seconds.';
COMMENT ON COLUMN {stats_hourly}.hour             IS 'When the hour begins that they ended in; hours are those of UTC.';
COMMENT ON COLUMN {stats_hourly}.task_name        IS 'The task''s name.';
COMMENT ON COLUMN {stats_hourly}.total            IS 'How many ended.';
COMMENT ON COLUMN {stats_hourly}.succeeded        IS 'How many of them succeeded.';
COMMENT ON COLUMN {stats_hourly}.failed           IS 'How many of them failed.';
COMMENT ON COLUMN {stats_hourly}.failure_rate     IS 'The share that failed, 0 to 1.';
COMMENT ON COLUMN {stats_hourly}.average_duration IS 'Seconds that they ran on average.';
COMMENT ON COLUMN {stats_hourly}.p50_duration     IS 'Seconds within which half of them ended.';
COMMENT ON COLUMN {stats_hourly}.p95_duration     IS 'Seconds within which 95 % of them ended.';
COMMENT ON COLUMN {stats_hourly}.p99_duration     IS 'Seconds within which 99 % of them ended.';
COMMENT ON COLUMN {stats_hourly}.max_duration     IS 'Seconds that the longest ran.';
COMMENT ON COLUMN {stats_hourly}.average_wait     IS 'Seconds from being sent to being started, on average.';
COMMENT ON COLUMN {stats_hourly}.max_wait         IS 'Seconds that the one waited that waited longest.';
