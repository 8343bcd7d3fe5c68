-- not_expired --
-- Rows that have not run out. The planner estimates this well, unlike `IS NOT FALSE`.
(result.expires_at IS NULL OR result.expires_at > now())

-- finished --
-- Tasks that have ended.
result.finished_at IS NOT NULL

-- unfinished --
-- Tasks that have not.
result.finished_at IS NULL

-- failed --
-- The predicate of the indexes on failures.
result.status = 'FAILURE'

-- status --
-- Any of these statuses.
result.status = ANY (%({value})b::text[])

-- task_name --
-- One task.
result.task_name = %({value})s::text

-- task_names --
-- Any of several tasks.
result.task_name = ANY (%({value})b::text[])

-- each_task --
-- One of several tasks, each of which is looked up by itself.
result.task_name = wanted.task_name

-- worker --
-- Any of these workers.
result.worker = ANY (%({value})b::text[])

-- since --
-- Ended at this moment or later.
result.finished_at >= %({value})b::timestamptz

-- until --
-- Ended before this moment.
result.finished_at < %({value})b::timestamptz

-- min_duration --
-- Ran for so many seconds, or more.
result.execution_time >= %({value})b::float8

-- max_duration --
-- Ran for so many seconds, or less.
result.execution_time <= %({value})b::float8

-- error_type --
-- Raised one of these classes, named alone or with its module.
(result.error ->> 'type' = ANY (%({value})b::text[])
 OR (result.error ->> 'module') || '.' || (result.error ->> 'type') = ANY (%({value})b::text[]))

-- message --
-- Raised an error that says this, in any case.
position(lower(%({value})s::text) IN lower(result.error ->> 'message')) > 0

-- fingerprint --
-- Raised an error of this group.
result.error ->> 'fingerprint' = ANY (%({value})b::text[])

-- contains --
-- A JSON column contains this.
result.{column} @> %({value})s::jsonb

-- contains_any --
-- A JSON column contains one of these.
result.{column} @> ANY (%({values})s::jsonb[])

-- path_predicate --
-- An SQL/JSON path is true of a JSON column.
result.{column} @@ %({value})s::jsonpath

-- path_selection --
-- An SQL/JSON path finds something in a JSON column.
result.{column} @? %({value})s::jsonpath

-- path_predicate_on_times --
-- Likewise where it compares times, with and without a zone.
jsonb_path_match_tz(result.{column}, %({value})s::jsonpath, silent => true)

-- path_selection_on_times --
-- Likewise.
jsonb_path_exists_tz(result.{column}, %({value})s::jsonpath, silent => true)

-- path_test --
-- An SQL/JSON path with variables is true of a JSON column.
jsonb_path_match_tz(result.{column}, %({path})s::jsonpath, %({variables})s::jsonb, true)

-- comparison --
-- What an SQL/JSON path finds compares so with a value of an SQL type, where it can be read as one.
EXISTS (SELECT FROM jsonb_path_query(result.{column}, %({path})s::jsonpath, silent => true) AS found (item)
        WHERE {item} {operator} %({value})s::{cast})

-- found_item --
-- What the path has found.
found.item

-- equal --
-- The same.
=

-- less --
-- Before it.
<

-- less_or_equal --
-- Before it, or the same.
<=

-- greater --
-- Behind it.
>

-- greater_or_equal --
-- Behind it, or the same.
>=

-- containing --
-- It has all of it, and maybe more.
@>

-- same_json --
-- What stands at a place in a JSON column is this.
result.{column} #> %({path})b::text[] = %({value})s::jsonb

-- same_as_any --
-- What stands at a place in a JSON column is one of these.
result.{column} #> %({path})b::text[] = ANY (%({values})s::jsonb[])

-- found_as_any --
-- Likewise where a path of keys and indexes would take either for the other.
jsonb_path_query_first(result.{column}, %({path})s::jsonpath, silent => true) = ANY (%({values})s::jsonb[])

-- every_row --
-- No condition at all.
true

-- no_row --
-- What nothing fulfils.
false

-- conjunction --
-- Both.
({left} AND {right})

-- disjunction --
-- Either.
({left} OR {right})

-- negation --
-- All that it is not true of, NULL included.
({condition}) IS NOT TRUE
