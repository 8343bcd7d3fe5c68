-- How much room all this takes, and how many rows there are. Cheap: rows are counted only where an
-- index holds no others, and estimated elsewhere.

CREATE OR REPLACE VIEW {storage} AS
WITH relations (part, id) AS (
    VALUES ('results', {results_literal}::regclass::oid),
           ('progress', {progress_literal}::regclass),
           ('rollup', {rollup_literal}::regclass),
           ('rollup_hours', {rollup_hours_literal}::regclass),
           ('rollup_marks', {rollup_marks_literal}::regclass)
), estimated AS (
    SELECT nullif(reltuples, -1)::bigint AS rows FROM pg_catalog.pg_class
    WHERE oid = {results_literal}::regclass
), unfinished AS (
    SELECT status, count(*) AS rows FROM {results} WHERE finished_at IS NULL GROUP BY status
), failed AS (
    SELECT count(*) AS rows FROM {results} WHERE status = 'FAILURE'
)
SELECT relations.part                                  AS part,
       'table'                                         AS kind,
       pg_relation_size(relation.oid)                  AS bytes,
       pg_size_pretty(pg_relation_size(relation.oid))  AS size,
       nullif(relation.reltuples, -1)::bigint          AS rows
FROM relations
JOIN pg_catalog.pg_class AS relation ON relation.oid = relations.id
UNION ALL
SELECT relations.part, 'large values', pg_total_relation_size(relation.reltoastrelid),
       pg_size_pretty(pg_total_relation_size(relation.reltoastrelid)), NULL
FROM relations
JOIN pg_catalog.pg_class AS relation ON relation.oid = relations.id
WHERE relation.reltoastrelid <> 0
UNION ALL
SELECT held.relname, 'index', pg_relation_size(held.oid), pg_size_pretty(pg_relation_size(held.oid)),
       nullif(held.reltuples, -1)::bigint
FROM relations
JOIN pg_catalog.pg_index AS index ON index.indrelid = relations.id
JOIN pg_catalog.pg_class AS held ON held.oid = index.indexrelid
UNION ALL
SELECT status, 'status', NULL, NULL, rows FROM unfinished
UNION ALL
SELECT 'FAILURE', 'status', NULL, NULL, rows FROM failed
UNION ALL
SELECT 'SUCCESS', 'status', NULL, NULL,
       greatest(0, estimated.rows - failed.rows - (SELECT coalesce(sum(rows), 0) FROM unfinished))::bigint
FROM estimated, failed;

COMMENT ON VIEW {storage} IS 'The room that tables, large values and indexes take, and how many rows there are of each status, those that have expired included.';
COMMENT ON COLUMN {storage}.part  IS 'Which table or index, or which status.';
COMMENT ON COLUMN {storage}.kind  IS 'table, large values (TOAST), index or status.';
COMMENT ON COLUMN {storage}.bytes IS 'Its size in bytes; NULL of a status.';
COMMENT ON COLUMN {storage}.size  IS 'Its size for people.';
COMMENT ON COLUMN {storage}.rows  IS 'Its rows: an estimate, but of the statuses other than SUCCESS; NULL where nothing was analysed yet.';
