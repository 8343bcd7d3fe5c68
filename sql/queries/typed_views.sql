-- create_typed_view --
-- The results of one task, each field of its return value a column.
CREATE OR REPLACE VIEW {view} AS
SELECT result.task_id, result.finished_at, result.execution_time, {columns}
FROM {results} AS result
WHERE result.task_name = {task_name} AND result.status = 'SUCCESS';

-- drop_typed_view --
-- Drop a view that was made of a task.
DROP VIEW {view};

-- comment_typed_view --
-- Say whose view it is.
COMMENT ON VIEW {view} IS {comment};

-- view_comment --
-- What kind of thing bears a name, and its comment; NULLs where there is none.
SELECT (SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%(view)s)),
       obj_description(to_regclass(%(view)s), 'pg_class');

-- create_field_index --
-- An index of what a column of the view says, of this task alone. Writers go on meanwhile.
CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {results} (({expression}))
WHERE task_name = {task_name} AND status = 'SUCCESS';

-- comment_field_index --
-- Say whose index it is.
COMMENT ON INDEX {index} IS {comment};

-- drop_field_index --
-- Drop an index that is no longer wanted.
DROP INDEX CONCURRENTLY IF EXISTS {index};

-- field_indexes --
-- The indexes of a view's columns: their names, and whether they are whole.
SELECT held.relname::text, pg_index.indisvalid
FROM pg_index JOIN pg_class AS held ON held.oid = pg_index.indexrelid
WHERE pg_index.indrelid = to_regclass(%(table)s)
  AND (obj_description(held.oid, 'pg_class') = %(comment)s OR held.relname = ANY (%(wanted)s::text[]));

-- field_column --
-- A field as a column.
{expression} AS {field}

-- field_value --
-- The JSON of a field.
(return_value -> {key})

-- whole_value --
-- The JSON of a value that has no fields.
return_value

-- as_text --
-- A text, and the text of anything else.
({value} #>> '{{}}')

-- as_boolean --
-- True or false; NULL of anything else.
CASE jsonb_typeof({value}) WHEN 'boolean' THEN {value}::boolean END

-- as_bigint --
-- A whole number of 64 bits; NULL of anything else.
CASE WHEN jsonb_typeof({value}) = 'number'
     THEN CASE WHEN {value}::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
               THEN {value}::bigint END END

-- as_double --
-- A floating-point number; NULL of anything else.
CASE jsonb_typeof({value}) WHEN 'number' THEN {value}::double precision END

-- as_numeric --
-- A number, or the text of a Decimal; NULL of anything else.
CASE WHEN ({value} #>> '{{}}') ~ '^[+-]?\d+(\.\d*)?([eE][+-]?\d{{1,4}})?$'
     THEN ({value} #>> '{{}}')::numeric END

-- as_timestamptz --
-- A moment; one with no zone is of the session's. NULL of anything else.
CASE WHEN ({value} #>> '{{}}') ~ '^\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?([+-]\d\d(:?\d\d)?|Z)?$'
     THEN ({value} #>> '{{}}')::timestamptz END

-- as_date --
-- A date; NULL of anything else.
CASE WHEN ({value} #>> '{{}}') ~ '^\d{{4}}-\d\d-\d\d$' THEN ({value} #>> '{{}}')::date END

-- as_interval --
-- A duration in ISO 8601; NULL of anything else.
CASE WHEN ({value} #>> '{{}}') ~ '^P[-\dDTHMS.]+$' THEN ({value} #>> '{{}}')::interval END

-- as_uuid --
-- A UUID; NULL of anything else.
CASE WHEN ({value} #>> '{{}}') ~ '^[0-9a-fA-F]{{8}}(-?[0-9a-fA-F]{{4}}){{3}}-?[0-9a-fA-F]{{12}}$'
     THEN ({value} #>> '{{}}')::uuid END

-- as_jsonb --
-- Anything, as the JSON that it is.
{value}
