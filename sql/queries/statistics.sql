-- stats --
-- How many tasks ended, how many failed, how long they ran and how long they had waited, by group; those
-- whose end is infinite are in no span of time.
-- Durations are counted in classes of 1 %; a percentile is the mean of its class, and so at most 1 %
-- off, and exact where a class holds one duration. No row is sorted.
WITH histogram AS (
    SELECT {key_names}, duration_class, count(*) AS total, count(*) FILTER (WHERE failed) AS failed,
           count(execution_time) AS timed, sum(execution_time) AS seconds,
           max(execution_time) AS longest,
           count(wait) AS waited, sum(wait) AS wait_seconds, max(wait) AS longest_wait
    FROM (
        SELECT {keys}, result.execution_time, result.status = 'FAILURE' AS failed,
               floor(100.5 * ln(greatest(result.execution_time, 1e-6))) AS duration_class,
               date_part('epoch', result.started_at - result.queued_at) AS wait
        FROM {results} AS result
        WHERE {conditions} AND isfinite(result.finished_at)
    ) AS measured
    GROUP BY {key_names}, duration_class
), {from_histogram};

-- from_histogram --
-- The numbers of each group from those of its classes of duration.
cumulated AS (
    SELECT *,
           sum(timed::float8) OVER (PARTITION BY {key_names} ORDER BY duration_class) - timed AS before
    FROM histogram
), by_group AS (
    SELECT {key_names}, sum(total)::bigint AS total, sum(failed)::bigint AS failed,
           sum(timed)::float8 AS timed, sum(seconds) / nullif(sum(timed), 0) AS average,
           max(longest) AS longest, sum(wait_seconds) / nullif(sum(waited), 0) AS average_wait,
           max(longest_wait) AS longest_wait,
           array_agg(before ORDER BY duration_class) FILTER (WHERE timed > 0) AS before,
           array_agg(seconds / timed ORDER BY duration_class) FILTER (WHERE timed > 0) AS durations
    FROM cumulated
    GROUP BY {key_names}
)
SELECT {key_names}, total, failed, average, longest, (
           SELECT array_agg(
               durations[width_bucket(greatest(1, ceil(share * timed)) - 0.5, before)] ORDER BY position)
           FROM unnest(%(shares)b::float8[]) WITH ORDINALITY AS wanted (share, position)),
       average_wait, longest_wait
FROM by_group
ORDER BY {key_names}

-- stats_by_bucket --
-- Likewise in spans of time. There are few rows for each, so that sorting them costs less than classes. The
-- keys have a query of their own, where no column of the table's owner bears their names.
SELECT {key_names}, count(*), count(*) FILTER (WHERE failed),
       sum(execution_time) / nullif(count(execution_time), 0),
       max(execution_time),
       percentile_disc(%(shares)b::float8[]) WITHIN GROUP (ORDER BY execution_time),
       avg(wait), max(wait)
FROM (
    SELECT {keys}, result.status = 'FAILURE' AS failed, result.execution_time,
           date_part('epoch', result.started_at - result.queued_at) AS wait
    FROM {results} AS result
    WHERE {conditions} AND isfinite(result.finished_at)
) AS measured
GROUP BY {key_names}
ORDER BY {key_names};

-- failure_groups_found --
-- The failures of one cause each, the most frequent first, with the newest tasks as samples: these are
-- looked for in the groups that are shown alone. A subquery is worked out once, not for each row.
WITH grouped AS (
    SELECT task_name, error_type, fingerprint, count(*) AS total,
           min(finished_at) AS first_seen, max(finished_at) AS last_seen,
           count(*) FILTER (WHERE finished_at >= (SELECT now() - interval '1 hour')) AS last_hour,
           count(*) FILTER (WHERE finished_at >= (SELECT now() - interval '24 hours')) AS last_day,
           count(*) FILTER (WHERE finished_at >= (SELECT now() - interval '168 hours')) AS last_week,
           array_agg(task_id) AS task_ids, array_agg(finished_at) AS moments
    FROM (
        SELECT result.task_id, result.task_name, result.finished_at,
               result.error ->> 'type' AS error_type, result.error ->> 'fingerprint' AS fingerprint
        FROM {results} AS result
        WHERE {conditions} AND isfinite(result.finished_at) AND result.status = 'FAILURE'
    ) AS failed
    GROUP BY task_name, error_type, fingerprint
    ORDER BY total DESC, last_seen DESC, task_name, error_type, fingerprint
    LIMIT %(limit)b::int
)
SELECT grouped.task_name, grouped.error_type, grouped.fingerprint, newest.error ->> 'message',
       grouped.total, grouped.last_hour, grouped.last_day, grouped.last_week,
       grouped.first_seen, grouped.last_seen, sampled.task_ids::text[]
FROM grouped
CROSS JOIN LATERAL (
    SELECT array_agg(task_id ORDER BY finished_at DESC, task_id DESC) AS task_ids
    FROM (
        SELECT *
        FROM unnest(grouped.task_ids, grouped.moments) AS member (task_id, finished_at)
        ORDER BY finished_at DESC, task_id DESC
        LIMIT %(samples)b::int
    ) AS first
) AS sampled
JOIN {results} AS newest ON newest.task_id = sampled.task_ids[1]
ORDER BY grouped.total DESC, grouped.last_seen DESC, task_name, error_type, fingerprint;

-- error_type_key --
-- The class of what a task raised.
result.error ->> 'type' AS error_type

-- column_key --
-- A column to group by.
result.{column}

-- bucket_key --
-- The beginning of the span of time that a task ended in, in UTC; weeks begin on Mondays.
date_bin(%(width)b::interval, result.finished_at, '2000-01-03 00:00:00+00') AS bucket

-- no_bucket_key --
-- All times together.
NULL::timestamptz AS bucket

-- key_name --
-- A key that has been worked out.
{column}

-- list --
-- One after the other.
{left}, {right}
