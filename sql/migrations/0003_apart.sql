-- What keeps two stores, and two servers, apart.

-- The failures by task bore the name that the failures of a table "jobs_task" need beside a table "jobs".
DO $do$
DECLARE
    held regclass := (
        SELECT index.indexrelid
        FROM pg_catalog.pg_index AS index
        JOIN pg_catalog.pg_class AS named ON named.oid = index.indexrelid
        WHERE index.indrelid = {results_literal}::regclass
          AND named.relname = (parse_ident({results_task_failures_idx_literal}))[1]);
BEGIN
    IF held IS NOT NULL THEN
        EXECUTE format('ALTER INDEX %s RENAME TO %s', held, {results_failures_by_task_idx_literal});
    END IF;
END
$do$;
