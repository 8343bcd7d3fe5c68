-- finish --
-- Store how tasks ended. A row that the middleware said nothing of keeps what an earlier one said; an
-- attempt that began before the one whose end is there already changes nothing, where another worker's
-- clock may differ by some seconds. A result is kept from when it is stored, by the server's clock, and
-- for seconds, as a day has other hours where the clocks of the session's zone change.
INSERT INTO {results} AS result (
    task_id, task_name, worker, status, return_value, error, args, kwargs, labels, log,
    execution_time, queued_at, started_at, finished_at, expires_at, types, pickled, serializer)
SELECT task_id::{task_id_type}, task_name, worker, status,
       convert_from(return_value, 'UTF8')::jsonb, convert_from(error, 'UTF8')::jsonb,
       convert_from(args, 'UTF8')::jsonb, convert_from(kwargs, 'UTF8')::jsonb,
       convert_from(labels, 'UTF8')::jsonb, log, execution_time, queued_at, started_at,
       coalesce(finished_at, now()),
       now() + date_part('epoch', %(ttl)b::interval) * interval '1 second',
       types, pickled, %(serializer)s::text
FROM {batch}{lock_limit}
ON CONFLICT (task_id) DO UPDATE SET
    task_name      = coalesce(excluded.task_name, result.task_name),
    worker         = coalesce(excluded.worker, result.worker),
    status         = excluded.status,
    return_value   = excluded.return_value,
    error          = excluded.error,
    args           = CASE WHEN excluded.task_name IS NULL AND result.pickled IS NULL
                          THEN result.args ELSE excluded.args END,
    kwargs         = CASE WHEN excluded.task_name IS NULL AND result.pickled IS NULL
                          THEN result.kwargs ELSE excluded.kwargs END,
    labels         = excluded.labels,
    log            = excluded.log,
    execution_time = excluded.execution_time,
    queued_at      = coalesce(excluded.queued_at, result.queued_at),
    started_at     = coalesce(excluded.started_at, result.started_at),
    finished_at    = excluded.finished_at,
    expires_at     = excluded.expires_at,
    types          = CASE WHEN excluded.task_name IS NULL AND result.pickled IS NULL
                           AND result.types ?| '{{args,kwargs}}'
                          THEN result.types - '{{return_value,error,labels}}'::text[]
                               || coalesce(excluded.types, '{{}}')
                          ELSE excluded.types END,
    pickled        = excluded.pickled,
    serializer     = excluded.serializer
WHERE result.finished_at IS NULL OR result.expires_at <= now()
   OR (excluded.started_at < result.started_at
       - CASE WHEN excluded.worker IS NOT DISTINCT FROM result.worker THEN interval '0'
              ELSE %(clocks_differ_by)b::interval END) IS NOT TRUE;

-- finish_one --
-- A batch of one row: it costs half of what arrays do.
(SELECT %(task_id)s::text AS task_id, %(task_name)s::text AS task_name, %(worker)s::text AS worker,
        %(status)s::text AS status, %(return_value)b::bytea AS return_value,
        %(error)b::bytea AS error, %(args)b::bytea AS args, %(kwargs)b::bytea AS kwargs,
        %(labels)b::bytea AS labels, %(log)s::text AS log,
        %(execution_time)b::float8 AS execution_time, %(queued_at)b::timestamptz AS queued_at,
        %(started_at)b::timestamptz AS started_at, %(finished_at)b::timestamptz AS finished_at,
        convert_from(%(types)b::bytea, 'UTF8')::jsonb AS types, %(pickled)b::bytea AS pickled) AS batch

-- finish_many --
-- A batch of rows, a column an array. Rows of one task have one sidecar: each is sent, and parsed, once.
(SELECT row.*, (SELECT array_agg(convert_from(sidecar, 'UTF8')::jsonb)
                   FROM unnest(%(kinds)b::bytea[]) AS sidecar)[kind] AS types
 FROM unnest(
    %(task_id)b::text[], %(task_name)b::text[], %(worker)b::text[], %(status)b::text[],
    %(return_value)b::bytea[], %(error)b::bytea[], %(args)b::bytea[], %(kwargs)b::bytea[],
    %(labels)b::bytea[], %(log)b::text[], %(execution_time)b::float8[],
    %(queued_at)b::timestamptz[], %(started_at)b::timestamptz[], %(finished_at)b::timestamptz[],
    %(kind)b::int[], %(pickled)b::bytea[]
 ) AS row (
    task_id, task_name, worker, status, return_value, error, args, kwargs, labels, log,
    execution_time, queued_at, started_at, finished_at, kind, pickled)) AS batch

-- record_state --
-- Store that tasks were queued, started or will be retried. Never touches the row of a task that has
-- ended or of a later attempt; being queued (no started_at) never touches a row that is there.
INSERT INTO {results} AS result (
    task_id, task_name, worker, status, error, args, kwargs, labels, queued_at, started_at,
    types, pickled, serializer)
SELECT task_id::{task_id_type}, task_name, worker, status, convert_from(error, 'UTF8')::jsonb,
       convert_from(args, 'UTF8')::jsonb, convert_from(kwargs, 'UTF8')::jsonb,
       convert_from(labels, 'UTF8')::jsonb, queued_at, started_at,
       types, pickled, %(serializer)s::text
FROM {batch}{lock_limit}
ON CONFLICT (task_id) DO UPDATE SET
    task_name  = excluded.task_name,
    worker     = excluded.worker,
    status     = excluded.status,
    error      = excluded.error,
    args       = excluded.args,
    kwargs     = excluded.kwargs,
    labels     = excluded.labels,
    queued_at  = coalesce(excluded.queued_at, result.queued_at),
    started_at = excluded.started_at,
    types      = excluded.types,
    pickled    = excluded.pickled,
    serializer = excluded.serializer
WHERE result.finished_at IS NULL
  AND excluded.started_at >= coalesce(result.started_at, '-infinity');

-- record_state_one --
-- A batch of one row.
(SELECT %(task_id)s::text AS task_id, %(task_name)s::text AS task_name, %(worker)s::text AS worker,
        %(status)s::text AS status, %(error)b::bytea AS error, %(args)b::bytea AS args,
        %(kwargs)b::bytea AS kwargs, %(labels)b::bytea AS labels,
        %(queued_at)b::timestamptz AS queued_at, %(started_at)b::timestamptz AS started_at,
        convert_from(%(types)b::bytea, 'UTF8')::jsonb AS types, %(pickled)b::bytea AS pickled) AS batch

-- record_state_many --
-- A batch of rows, a column an array.
(SELECT row.*, (SELECT array_agg(convert_from(sidecar, 'UTF8')::jsonb)
                   FROM unnest(%(kinds)b::bytea[]) AS sidecar)[kind] AS types
 FROM unnest(
    %(task_id)b::text[], %(task_name)b::text[], %(worker)b::text[], %(status)b::text[],
    %(error)b::bytea[], %(args)b::bytea[], %(kwargs)b::bytea[], %(labels)b::bytea[],
    %(queued_at)b::timestamptz[], %(started_at)b::timestamptz[], %(kind)b::int[],
    %(pickled)b::bytea[]
 ) AS row (
    task_id, task_name, worker, status, error, args, kwargs, labels, queued_at, started_at,
    kind, pickled)) AS batch

-- lock_limit --
-- Beside a batch: for how many milliseconds a statement waits for a row that somebody has locked. For
-- the table it has waited by then, as long as that took.
, set_config('lock_timeout', %(lock_limit)s::text, true) AS lock_limit

-- locked_rows --
-- Which of the tasks have a row that somebody else has locked.
WITH free AS MATERIALIZED (
    SELECT task_id FROM {table}
    WHERE task_id = ANY (%(task_id)b::text[]::{task_id_type}[])
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT task_id::text FROM {table}
WHERE task_id = ANY (%(task_id)b::text[]::{task_id_type}[])
  AND task_id NOT IN (SELECT task_id FROM free);

-- discard_state --
-- Forget attempts that leave no result, and what was known of the task before them, unless another has begun since or
-- the task has ended. A client's clock, or that of an earlier attempt's worker, may be ahead of this one's.
DELETE FROM {results} AS result
USING unnest(%(task_id)b::text[], %(started_at)b::timestamptz[])
      AS attempt (task_id, started_at){lock_limit}
WHERE result.task_id = attempt.task_id::{task_id_type}
  AND result.finished_at IS NULL
  AND (coalesce(result.started_at, result.queued_at) <= attempt.started_at
       + CASE WHEN result.status = 'STARTED' THEN interval '0'
              ELSE %(clocks_differ_by)b::interval END) IS NOT FALSE;

-- set_progress --
-- Store the latest progress of tasks.
INSERT INTO {progress} AS progress (task_id, state, meta, types, pickled, updated_at)
SELECT task_id::{task_id_type}, state, convert_from(meta, 'UTF8')::jsonb,
       types, pickled, now()
FROM {batch}{lock_limit}
ON CONFLICT (task_id) DO UPDATE SET
    state      = excluded.state,
    meta       = excluded.meta,
    types      = excluded.types,
    pickled    = excluded.pickled,
    updated_at = excluded.updated_at;

-- set_progress_one --
-- A batch of one row.
(SELECT %(task_id)s::text AS task_id, %(state)s::text AS state, %(meta)b::bytea AS meta,
        convert_from(%(types)b::bytea, 'UTF8')::jsonb AS types, %(pickled)b::bytea AS pickled) AS batch

-- set_progress_many --
-- A batch of rows, a column an array.
(SELECT row.*, (SELECT array_agg(convert_from(sidecar, 'UTF8')::jsonb)
                   FROM unnest(%(kinds)b::bytea[]) AS sidecar)[kind] AS types
 FROM unnest(%(task_id)b::text[], %(state)b::text[], %(meta)b::bytea[], %(kind)b::int[],
             %(pickled)b::bytea[]) AS row (task_id, state, meta, kind, pickled)) AS batch

-- delete --
-- Delete the rows and the progress of tasks; gives the ids of those whose result could be read.
WITH wanted AS (
    SELECT id::{task_id_type} AS task_id, id FROM unnest(%(task_id)b::text[]) AS given (id){lock_limit}
), progress_deleted AS (
    DELETE FROM {progress} AS progress USING wanted WHERE progress.task_id = wanted.task_id
), deleted AS (
    DELETE FROM {results} AS result USING wanted
    WHERE result.task_id = wanted.task_id
    RETURNING wanted.id, result.finished_at, result.expires_at
)
SELECT id FROM deleted WHERE finished_at IS NOT NULL AND (expires_at > now()) IS NOT FALSE;
