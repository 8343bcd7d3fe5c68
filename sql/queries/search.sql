-- search --
-- One page of records. The rows are found first, and only those are joined and decoded.
SELECT {record_columns}
FROM ({page}) AS result
{progress_join}
ORDER BY {order};

-- count --
-- How many rows there are.
SELECT count(*) FROM {results} AS result WHERE {conditions};

-- page --
-- The rows of a page, walking along an order.
SELECT {page_columns}
FROM {results} AS result
WHERE {conditions} AND {position}
ORDER BY {order}
LIMIT %(limit)s::bigint

-- page_by_index --
-- Likewise where an index finds what a JSON column holds. The planner knows nothing of the contents of large
-- values, and takes each hundredth row to match. So the page is looked for among the rows that come next;
-- where they do not fill it, among all that match, which the index finds, unless they are many; else among more
-- rows that come next, those left out where the columns are NULL, as of tasks that wait; and else as the planner
-- sees fit. The search by the index is planned as if all that match were wanted.
WITH near AS MATERIALIZED (
    SELECT {page_columns}
    FROM (
        SELECT result.* FROM {results} AS result
        WHERE {walked} AND {position}
        ORDER BY {order}
        LIMIT 15 * %(limit)s::bigint
    ) AS result
    WHERE {conditions}
    ORDER BY {order}
    LIMIT %(limit)s::bigint
), matching AS MATERIALIZED (
    SELECT result.task_id, result.finished_at FROM {results} AS result WHERE {conditions}
), hits AS MATERIALIZED (
    SELECT * FROM matching LIMIT 5000
), far AS MATERIALIZED (
    SELECT result.task_id, result.finished_at
    FROM (
        SELECT result.* FROM {results} AS result
        WHERE {walked} AND {present} AND {position}
        ORDER BY {order}
        LIMIT 100 * %(limit)s::bigint
    ) AS result
    WHERE {conditions}
    ORDER BY {order}
    LIMIT %(limit)s::bigint
), way AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM near) = %(limit)s::bigint THEN 'near'
                WHEN {has_json_index} AND (SELECT count(*) FROM hits) < 5000 THEN 'hits'
                WHEN (SELECT count(*) FROM far) = %(limit)s::bigint THEN 'far'
                ELSE 'any' END AS taken
)
SELECT result.*
FROM (
    SELECT * FROM near WHERE (SELECT taken FROM way) = 'near'
    UNION ALL
    SELECT {page_columns}
    FROM (
        SELECT result.task_id
        FROM (
            SELECT * FROM hits WHERE (SELECT taken FROM way) = 'hits'
            UNION ALL
            SELECT * FROM far WHERE (SELECT taken FROM way) = 'far'
        ) AS result
        WHERE {position}
        ORDER BY {order}
        LIMIT %(limit)s::bigint
    ) AS hit
    CROSS JOIN LATERAL (
        SELECT * FROM {results} AS row WHERE row.task_id = hit.task_id OFFSET 0
    ) AS result
    UNION ALL (
        SELECT {page_columns}
        FROM {results} AS result
        WHERE (SELECT taken FROM way) = 'any' AND {conditions} AND {position}
        ORDER BY {order}
        LIMIT %(limit)s::bigint)
) AS result
ORDER BY {order}

-- has_json_index --
-- Whether the table has an index that finds rows by what is in a JSON column: GIN.
EXISTS (SELECT FROM pg_index
        JOIN pg_class AS named ON named.oid = indexrelid
        JOIN pg_am ON pg_am.oid = named.relam
        WHERE indrelid = to_regclass({results_literal}) AND indisvalid AND amname = 'gin')

-- page_of_tasks --
-- Likewise of several tasks: the first rows of each by its own index, then the first of all.
SELECT result.*
FROM unnest(%(task_names)b::text[]) AS wanted (task_name)
CROSS JOIN LATERAL ({page}) AS result
ORDER BY {order}
LIMIT %(limit)s::bigint

-- page_columns --
-- What a page hands on to the columns of a record.
result.task_id, result.task_name, result.worker, result.status, result.log, result.execution_time,
       result.queued_at, result.started_at, result.finished_at, result.expires_at,
       result.serializer, result.types, {pickled},
       {return_value}, {error}, {args}, {kwargs}, {labels}

-- loaded --
-- A column that is loaded.
result.{column}

-- left_out --
-- A column that is not.
NULL::jsonb AS {column}

-- pickles_left_out --
-- The pickles, where no value is loaded.
NULL::bytea AS {column}

-- progress_loaded --
-- The progress of each task.
LEFT JOIN {progress} AS progress ON progress.task_id = result.task_id

-- progress_left_out --
-- No progress.
LEFT JOIN {progress} AS progress ON false

-- ascending --
-- Smallest first; PostgreSQL sorts NULLs after all else.
result.{column}, result.task_id

-- descending --
-- Largest first, and so NULLs before all else.
result.{column} DESC, result.task_id DESC

-- beyond --
-- Rows that follow one.
(result.{column}, result.task_id) {operator} (%({value})s::{cast}, %({task_id})s::text::{task_id_type})

-- nulls --
-- All rows with no value to sort by.
result.{column} IS NULL

-- not_nulls --
-- All rows with a value to sort by.
result.{column} IS NOT NULL

-- nulls_beyond --
-- Rows with no value to sort by that follow one.
(result.{column} IS NULL AND result.task_id {operator} %({task_id})s::text::{task_id_type})

-- statement_timeout --
-- How long, in milliseconds, a statement of this transaction may run. Compiling it would take longer
-- than it saves.
SELECT set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('jit', 'off', true);

-- check_path --
-- Parse an SQL/JSON path; whether it is a predicate (true or false) rather than a selection.
SELECT coalesce(jsonb_typeof(jsonb_path_query_first('0', %(path)s::jsonpath, '{{}}', true))
                IN ('boolean', 'null'), false);
