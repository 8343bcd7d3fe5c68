-- get_results --
-- What tasks returned or raised, of those that have ended and are no larger than asked for (NULL is
-- any size; measured as stored, without reading the value).
SELECT wanted.id, result.status, result.log, result.execution_time, result.pickled, {result_columns}
FROM {batch}
WHERE result.finished_at IS NOT NULL AND (result.expires_at > now()) IS NOT FALSE
  AND (%(max_bytes)b::int IS NULL
       OR coalesce(pg_column_size(result.return_value), 0)
          + coalesce(pg_column_size(result.error), 0)
          + coalesce(pg_column_size(result.pickled), 0) <= %(max_bytes)b::int);

-- result_columns --
-- JSON as text, which costs less to send and to read than as bytes.
result.return_value::text, result.error::text, result.labels::text, result.types::text

-- heavy_result_columns --
-- JSON as UTF-8 bytes: of a large text Python would make up to four times as many.
convert_to(result.return_value::text, 'UTF8'), convert_to(result.error::text, 'UTF8'),
       convert_to(result.labels::text, 'UTF8'), convert_to(result.types::text, 'UTF8')

-- are_ready --
-- Which of the tasks have ended.
SELECT wanted.id
FROM {batch}
WHERE result.finished_at IS NOT NULL AND (result.expires_at > now()) IS NOT FALSE;

-- get_progress --
-- The latest progress of tasks.
SELECT wanted.id, progress.state, convert_to(progress.meta::text, 'UTF8'),
       convert_to(progress.types::text, 'UTF8'), progress.pickled, progress.updated_at,
       {progress_percent}(progress.meta)::float8, {progress_text}(progress.meta)
FROM {batch};

-- get_records --
-- All that is known of tasks, whether they have ended or not.
SELECT wanted.id, {record_columns}
FROM {batch}
LEFT JOIN LATERAL (
    SELECT * FROM {progress} AS row WHERE row.task_id = result.task_id OFFSET 0
) AS progress ON true
WHERE (result.expires_at > now()) IS NOT FALSE;

-- results_one --
-- The row of one task.
(SELECT %(task_id)s::text AS id) AS wanted
JOIN {results} AS result ON result.task_id = wanted.id::{task_id_type}

-- results_many --
-- The rows of many tasks. OFFSET 0 keeps the planner from a scan of the whole table, which it would
-- keep to for good if it planned while the table was nearly empty.
unnest(%(task_id)b::text[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT * FROM {results} AS row WHERE row.task_id = wanted.id::{task_id_type} OFFSET 0
) AS result

-- progress_one --
-- The progress of one task.
(SELECT %(task_id)s::text AS id) AS wanted
JOIN {progress} AS progress ON progress.task_id = wanted.id::{task_id_type}

-- progress_many --
-- The progress of many tasks.
unnest(%(task_id)b::text[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT * FROM {progress} AS row WHERE row.task_id = wanted.id::{task_id_type} OFFSET 0
) AS progress

-- record_columns --
-- The columns of a record, in the order of the reader's fields. What expires when Python has no years left
-- never does.
result.task_id::text, result.task_name, result.worker, result.status, result.log,
       result.execution_time, result.queued_at, result.started_at, result.finished_at,
       CASE WHEN result.expires_at < '9999-12-31 00:00:00+00' THEN result.expires_at END,
       result.serializer,
       convert_to(result.return_value::text, 'UTF8'), convert_to(result.error::text, 'UTF8'),
       convert_to(result.args::text, 'UTF8'), convert_to(result.kwargs::text, 'UTF8'),
       convert_to(result.labels::text, 'UTF8'), convert_to(result.types::text, 'UTF8'),
       result.pickled,
       progress.state, convert_to(progress.meta::text, 'UTF8'),
       convert_to(progress.types::text, 'UTF8'), progress.pickled, progress.updated_at,
       {progress_percent}(progress.meta)::float8, {progress_text}(progress.meta)
