-- rollup_access --
-- Whether the rollup may be read, whether it may be written, and whether it holds anything.
SELECT coalesce(bool_and(has_table_privilege(part.id, 'SELECT')), false) AS readable,
       coalesce(bool_and(has_table_privilege(part.id, 'INSERT')
                         AND has_table_privilege(part.id, 'UPDATE')
                         AND has_table_privilege(part.id, 'DELETE')), false)
           AND current_setting('transaction_read_only') = 'off' AS writable
FROM (VALUES (to_regclass({rollup_literal})), (to_regclass({rollup_hours_literal})),
             (to_regclass({rollup_marks_literal}))) AS part (id)
HAVING count(part.id) = 3;

-- rollup_announce --
-- Make the newest hour of each unknown span known, once it is long over: ten minutes more than late rows
-- have, for clocks that are set back. Empty hours after it come along, a month at most.
INSERT INTO {rollup_hours} AS known (hour)
SELECT announced.hour
FROM (
    SELECT unnest(tstzmultirange(tstzrange(NULL, date_trunc(
               'hour', clock_timestamp() - interval '20 minutes', 'UTC')))
           - coalesce(range_agg(tstzrange(hour, hour + interval '1 hour')), tstzmultirange())) AS span
    FROM {rollup_hours}
) AS unknown
CROSS JOIN LATERAL (
    SELECT date_trunc('hour', newest.finished_at, 'UTC') AS hour
    FROM {results} AS newest
    WHERE newest.finished_at >= coalesce(lower(unknown.span), '-infinity')
      AND newest.finished_at < upper(unknown.span) AND isfinite(newest.finished_at)
    ORDER BY newest.finished_at DESC
    LIMIT 1
) AS found
CROSS JOIN LATERAL generate_series(
    found.hour, least(upper(unknown.span) - interval '1 hour', found.hour + interval '30 days'),
    interval '1 hour') AS announced (hour)
ON CONFLICT DO NOTHING;

-- rollup_due --
-- The known hours that are to be counted, the newest first; whether each is for the first time, and
-- whether it has rows. One whose rows have begun to expire waits until the others have had time to.
SELECT known.hour, NOT known.counted,
       EXISTS (SELECT FROM {results} AS result
               WHERE result.finished_at >= known.hour
                 AND result.finished_at < known.hour + interval '1 hour')
FROM {rollup_hours} AS known
WHERE NOT known.counted
   OR known.expires_from <= now() - interval '1 hour'
   OR EXISTS (SELECT FROM {rollup_marks} AS mark WHERE mark.hour = known.hour)
ORDER BY known.hour DESC
LIMIT 1000;

-- rollup_writers --
-- The transactions that have changed results and not ended.
SELECT virtualtransaction
FROM pg_locks
WHERE locktype = 'relation' AND relation = {results_literal}::regclass
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND mode = 'RowExclusiveLock' AND granted;

-- rollup_lock --
-- True once this transaction alone may count.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('taskiq-pg-json rollup', {rollup_literal}::regclass::oid::bigint));

-- rollup_count --
-- Count the rows of hours anew; one statement, so that marks and rows are those of one snapshot.
WITH chosen AS MATERIALIZED (
    SELECT known.hour FROM {rollup_hours} AS known WHERE known.hour = ANY (%(hours)b::timestamptz[])
), unmarked AS (
    DELETE FROM {rollup_marks} AS mark USING chosen WHERE mark.hour = chosen.hour
), outdated AS (
    DELETE FROM {rollup} AS part USING chosen WHERE part.hour = chosen.hour
), counted AS MATERIALIZED (
    SELECT chosen.hour, part.*
    FROM chosen
    CROSS JOIN LATERAL (
        SELECT task_name, status, floor(100 * ln(greatest(execution_time, 1e-6))) AS duration_class,
               count(*) AS total, count(execution_time) AS timed, sum(execution_time) AS seconds,
               max(execution_time) AS longest,
               count(date_part('epoch', started_at - queued_at)) AS waited,
               sum(date_part('epoch', started_at - queued_at)) AS wait_seconds,
               max(date_part('epoch', started_at - queued_at)) AS longest_wait,
               min(expires_at) AS expires_from
        FROM {results} AS result
        WHERE finished_at >= chosen.hour AND finished_at < chosen.hour + interval '1 hour'
          AND (expires_at IS NULL OR expires_at > now())
        GROUP BY 1, 2, 3
    ) AS part
), filled AS (
    INSERT INTO {rollup} (hour, task_name, status, duration_class, total, timed, seconds, longest,
                          waited, wait_seconds, longest_wait)
    SELECT hour, task_name, status, duration_class, total, timed, seconds, longest, waited,
           wait_seconds, longest_wait
    FROM counted
)
UPDATE {rollup_hours} AS known
SET counted = true,
    expires_from = (SELECT min(counted.expires_from) FROM counted WHERE counted.hour = known.hour)
FROM chosen
WHERE known.hour = chosen.hour
RETURNING known.hour;

-- stats_from_rollup --
-- The same numbers as of "stats": from the rollup where an hour of it holds, else from the rows.
WITH whole AS MATERIALIZED (
    SELECT known.hour
    FROM {rollup_hours} AS known
    WHERE known.counted AND (known.expires_from IS NULL OR known.expires_from > now())
      AND known.hour >= coalesce(%(since)b::timestamptz, '-infinity')
      AND known.hour + interval '1 hour' <= coalesce(%(until)b::timestamptz, 'infinity')
      AND NOT EXISTS (SELECT FROM {rollup_marks} AS mark WHERE mark.hour = known.hour)
), rest AS MATERIALIZED (
    SELECT coalesce(lower(span), '-infinity') AS first, coalesce(upper(span), 'infinity') AS last
    FROM (
        SELECT unnest(tstzmultirange(tstzrange(%(since)b::timestamptz, %(until)b::timestamptz))
               - coalesce(range_agg(tstzrange(hour, hour + interval '1 hour')), tstzmultirange())) AS span
        FROM whole
    ) AS spans
), measured AS (
    SELECT {keys}, result.total, result.status = 'FAILURE' AS failed, result.duration_class,
           result.timed, result.seconds, result.longest,
           result.waited, result.wait_seconds, result.longest_wait
    FROM (
        SELECT part.*, part.hour AS finished_at, NULL::timestamptz AS expires_at
        FROM {rollup} AS part
        WHERE part.hour IN (SELECT whole.hour FROM whole)
    ) AS result
    WHERE {conditions}
    UNION ALL
    SELECT raw.*
    FROM rest
    CROSS JOIN LATERAL (
        SELECT {keys}, 1, result.status = 'FAILURE',
               floor(100 * ln(greatest(result.execution_time, 1e-6))),
               (result.execution_time IS NOT NULL)::int, result.execution_time, result.execution_time,
               (waits.seconds IS NOT NULL)::int, waits.seconds, waits.seconds
        FROM {results} AS result
        CROSS JOIN LATERAL (
            SELECT date_part('epoch', result.started_at - result.queued_at)) AS waits (seconds)
        WHERE result.finished_at >= rest.first AND result.finished_at < rest.last AND {conditions}
    ) AS raw
), histogram AS (
    SELECT {key_names}, duration_class, sum(total) AS total,
           coalesce(sum(total) FILTER (WHERE failed), 0) AS failed,
           sum(timed) AS timed, sum(seconds) AS seconds, max(longest) AS longest,
           sum(waited) AS waited, sum(wait_seconds) AS wait_seconds, max(longest_wait) AS longest_wait
    FROM measured
    GROUP BY {key_names}, duration_class
), {from_histogram};

-- rollup_useful --
-- Whether any hour of a span of time has been counted.
SELECT EXISTS (
    SELECT FROM {rollup_hours} AS known
    WHERE known.counted
      AND known.hour >= coalesce(%(since)b::timestamptz, '-infinity')
      AND known.hour + interval '1 hour' <= coalesce(%(until)b::timestamptz, 'infinity'));
