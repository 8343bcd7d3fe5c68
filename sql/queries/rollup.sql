-- rollup_access --
-- Whether the rollup is kept, whether the role may read it, whether it may write it, and whether it can be
-- written here. It is kept where its tables are, where late rows can leave marks (whatever was renamed or given
-- to another owner: the names in a function's body stay what they were) and its triggers fire for all that is
-- written, and where an index finds the rows of an hour; and for a role that sees all rows: others would count
-- a part for all. What a subscription brings is written by none but it.
SELECT count(part.id) = 3
           AND NOT row_security_active(to_regclass({results_literal}))
           AND NOT bool_or(row_security_active(part.id))
           AND EXISTS (
               SELECT FROM pg_proc AS mark
               JOIN pg_namespace AS home ON home.oid = mark.pronamespace
               WHERE mark.oid = to_regprocedure({rollup_mark_literal} || '()')
                 AND format('search_path=pg_catalog, %%s, pg_temp', replace(home.nspname, '"', '')) IN (
                     SELECT replace(setting, '"', '') FROM unnest(mark.proconfig) AS setting)
                 AND (SELECT bool_and(position('"' || replace(relname, '"', '""') || '"' IN mark.prosrc) > 0)
                      FROM pg_class
                      WHERE oid IN (to_regclass({rollup_marks_literal}), to_regclass({rollup_hours_literal})))
                 AND has_schema_privilege(mark.proowner, home.oid, 'USAGE')
                 AND has_table_privilege(mark.proowner, to_regclass({rollup_marks_literal}), 'INSERT')
                 AND has_table_privilege(mark.proowner, to_regclass({rollup_hours_literal}), 'SELECT'))
           AND EXISTS (  -- upon each INSERT, DELETE, UPDATE and TRUNCATE
               SELECT FROM pg_trigger
               WHERE tgrelid = to_regclass({results_literal}) AND tgenabled = 'A'
                 AND tgfoid IN (to_regprocedure({rollup_mark_literal} || '()'),
                                to_regprocedure({rollup_forget_literal} || '()'))
               HAVING bit_or(tgtype) & 60 = 60)
           AND EXISTS (
               SELECT FROM pg_index AS index
               JOIN pg_attribute AS sorted
                   ON sorted.attrelid = index.indrelid AND sorted.attnum = index.indkey[0]
               WHERE index.indrelid = to_regclass({results_literal}) AND index.indisvalid
                 AND index.indpred IS NULL AND sorted.attname = 'finished_at') AS kept,
       bool_and(has_table_privilege(part.id, 'SELECT')) AS readable,
       bool_and(has_table_privilege(part.id, 'INSERT') AND has_table_privilege(part.id, 'UPDATE')
                AND has_table_privilege(part.id, 'DELETE')) AS writable,
       current_setting('transaction_read_only') = 'off'
           AND NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = any (array_agg(part.id)))
           AS takes_writes
FROM (VALUES (to_regclass({rollup_literal})), (to_regclass({rollup_hours_literal})),
             (to_regclass({rollup_marks_literal}))) AS part (id);

-- rollup_announce --
-- Make the newest hour of each unknown span known, once it is long over: ten minutes more than late rows
-- have, for clocks that are set back. Empty hours after it come along, a month at most. An hour that Python
-- cannot hold, in whatever zone, is none.
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
    WHERE newest.finished_at >= coalesce(lower(unknown.span), '0001-01-02 00:00:00+00')
      AND newest.finished_at < upper(unknown.span)
    ORDER BY newest.finished_at DESC
    LIMIT 1
) AS found
CROSS JOIN LATERAL generate_series(
    found.hour, least(upper(unknown.span) - interval '1 hour', found.hour + interval '720 hours'),
    interval '1 hour') AS announced (hour)
ON CONFLICT DO NOTHING
RETURNING known.hour;

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
-- True once this transaction alone may count. The results are locked as by who reads them, so that
-- truncating them, which empties the rollup, waits for this or this for that.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('taskiq-pg-json rollup', {rollup_literal}::regclass::oid::bigint))
FROM (SELECT) AS once
LEFT JOIN {results} ON false;

-- rollup_count --
-- Count the rows of hours anew; one statement, so that marks and rows are those of one snapshot. An
-- interval of a day would have the hours that the session's zone gives it.
WITH chosen AS MATERIALIZED (
    SELECT known.hour FROM {rollup_hours} AS known WHERE known.hour = ANY (%(hours)b::timestamptz[])
), unmarked AS (
    DELETE FROM {rollup_marks} AS mark USING chosen WHERE mark.hour = chosen.hour
), outdated AS (
    DELETE FROM {rollup} AS part USING chosen WHERE NOT part.daily AND part.hour = chosen.hour
), spoiled AS MATERIALIZED (
    SELECT DISTINCT date_trunc('day', known.hour, 'UTC') AS day
    FROM {rollup_hours} AS known
    JOIN chosen USING (hour)
    WHERE known.summed
), sums_outdated AS (
    DELETE FROM {rollup} AS part USING spoiled WHERE part.daily AND part.hour = spoiled.day
), unsummed AS (
    UPDATE {rollup_hours} AS known
    SET summed = false
    FROM spoiled
    WHERE known.hour >= spoiled.day AND known.hour < spoiled.day + interval '24 hours' AND known.summed
      AND NOT EXISTS (SELECT FROM chosen WHERE chosen.hour = known.hour)
), counted AS MATERIALIZED (
    SELECT chosen.hour, part.*
    FROM chosen
    CROSS JOIN LATERAL (
        SELECT task_name, status, floor(100.5 * ln(greatest(execution_time, 1e-6))) AS duration_class,
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
SET counted = true, summed = false,
    expires_from = (SELECT min(counted.expires_from) FROM counted WHERE counted.hour = known.hour)
FROM chosen
WHERE known.hour = chosen.hour
RETURNING known.hour;

-- rollup_days_due --
-- The days of which some hours hold and are in no sum, the newest first.
SELECT date_trunc('day', known.hour, 'UTC') AS day
FROM {rollup_hours} AS known
WHERE NOT known.summed AND {stays}
GROUP BY day
HAVING count(*) >= 6
ORDER BY day DESC
LIMIT 1000;

-- stays --
-- What has been counted and will hold for a day, as far as one can tell.
known.counted AND (known.expires_from IS NULL OR known.expires_from > now() + interval '24 hours')
  AND NOT EXISTS (SELECT FROM {rollup_marks} AS mark WHERE mark.hour = known.hour)

-- rollup_sum --
-- Sum up the hours of days anew.
WITH chosen AS MATERIALIZED (
    SELECT known.hour, date_trunc('day', known.hour, 'UTC') AS day
    FROM {rollup_hours} AS known
    WHERE date_trunc('day', known.hour, 'UTC') = ANY (%(days)b::timestamptz[]) AND {stays}
), outdated AS (
    DELETE FROM {rollup} AS part WHERE part.daily AND part.hour = ANY (%(days)b::timestamptz[])
), filled AS (
    INSERT INTO {rollup} (daily, hour, task_name, status, duration_class, total, timed, seconds,
                          longest, waited, wait_seconds, longest_wait)
    SELECT true, chosen.day, part.task_name, part.status, part.duration_class, sum(part.total),
           sum(part.timed), sum(part.seconds), max(part.longest), sum(part.waited),
           sum(part.wait_seconds), max(part.longest_wait)
    FROM chosen
    JOIN {rollup} AS part ON NOT part.daily AND part.hour = chosen.hour
    GROUP BY chosen.day, part.task_name, part.status, part.duration_class
)
UPDATE {rollup_hours} AS known
SET summed = EXISTS (SELECT FROM chosen WHERE chosen.hour = known.hour)
WHERE date_trunc('day', known.hour, 'UTC') = ANY (%(days)b::timestamptz[])
RETURNING known.hour;

-- stats_from_rollup --
-- The same numbers as of "stats": from the rollup where an hour of it holds, else from the rows. Where
-- days will do, hours are taken from the sum of their day if it has no others.
WITH whole AS MATERIALIZED (
    SELECT known.hour, known.summed AND %(days)b::boolean AS summed
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
), summed AS MATERIALIZED (
    SELECT date_trunc('day', known.hour, 'UTC') AS day
    FROM {rollup_hours} AS known
    LEFT JOIN whole USING (hour)
    WHERE known.summed AND %(days)b::boolean
    GROUP BY day
    HAVING count(*) = count(whole.hour)
), wanted AS MATERIALIZED (
    SELECT true AS daily, day AS hour FROM summed
    UNION ALL
    SELECT false, hour FROM whole
    WHERE NOT (whole.summed AND date_trunc('day', whole.hour, 'UTC') IN (SELECT day FROM summed))
), measured AS (
    SELECT {keys}, result.total, result.status = 'FAILURE' AS failed, result.duration_class,
           result.timed, result.seconds, result.longest,
           result.waited, result.wait_seconds, result.longest_wait
    FROM (
        -- A day whose first hours are in no sum may begin before the span of time.
        SELECT part.*, greatest(part.hour, %(since)b::timestamptz) AS finished_at,
               NULL::timestamptz AS expires_at
        FROM wanted
        CROSS JOIN LATERAL (  -- each by the index, however many the planner expects
            SELECT * FROM {rollup} AS held
            WHERE held.daily = wanted.daily AND held.hour = wanted.hour
            OFFSET 0
        ) AS part
    ) AS result
    WHERE {conditions}
    UNION ALL
    SELECT raw.*
    FROM rest
    CROSS JOIN LATERAL (
        SELECT {keys}, 1, result.status = 'FAILURE',
               floor(100.5 * ln(greatest(result.execution_time, 1e-6))),
               (result.execution_time IS NOT NULL)::int, result.execution_time, result.execution_time,
               (waits.seconds IS NOT NULL)::int, waits.seconds, waits.seconds
        FROM {results} AS result
        CROSS JOIN LATERAL (
            SELECT date_part('epoch', result.started_at - result.queued_at)) AS waits (seconds)
        WHERE result.finished_at >= rest.first AND result.finished_at < rest.last
          AND isfinite(result.finished_at) AND {conditions}
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
