-- What keeps two stores, and two servers, apart.

-- The failures by task bore the name that the failures of a table "jobs_task" need beside a table "jobs".
DO {dollars}
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
    -- A table whose own index had found its name taken did without it.
    IF EXISTS (SELECT FROM pg_catalog.pg_index AS index
               JOIN pg_catalog.pg_class AS named ON named.oid = index.indexrelid
               WHERE index.indrelid = {results_literal}::regclass
                 AND named.relname = (parse_ident({results_failures_by_task_idx_literal}))[1]) THEN
        CREATE INDEX IF NOT EXISTS {results_failures_idx} ON {results} (finished_at, task_id)
            WHERE status = 'FAILURE';
    END IF;
END
{dollars};

-- A mark bore the number of its transaction, of which every server has its own: where rows and marks are
-- replicated, a mark that came could be one that was there, and replication stopped. Whoever is in the
-- midst of leaving a mark is waited for.
LOCK TABLE {results} IN SHARE ROW EXCLUSIVE MODE;
ALTER TABLE {rollup_marks} ALTER writer TYPE uuid USING gen_random_uuid();
COMMENT ON COLUMN {rollup_marks}.writer IS 'The transaction that changed them, by a random id: each has its own mark, so that none waits for another.';

-- As before, but that a transaction has a random id; that an hour which Python cannot hold has none; and
-- that a subscriber whose marks come from the publisher, with the rows, leaves none of its own: it would
-- have nobody to take them away.
CREATE OR REPLACE FUNCTION {rollup_mark}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS {dollars}
DECLARE
    changed timestamptz;
    looked  text;
    writing text;
BEGIN
    FOREACH changed IN ARRAY ARRAY[date_trunc('hour', OLD.finished_at, 'UTC'),
                                   date_trunc('hour', NEW.finished_at, 'UTC')]
    LOOP
        CONTINUE WHEN changed IS NULL OR NOT isfinite(changed) OR changed < '0001-01-02 00:00:00+00';
        looked := TG_RELID || ' ' || date_part('epoch', changed)::bigint;
        CONTINUE WHEN looked = current_setting('taskiq_pg_json.looked_at', true);
        writing := coalesce(nullif(current_setting('taskiq_pg_json.writer', true), ''),
                            set_config('taskiq_pg_json.writer', gen_random_uuid()::text, true));
        BEGIN
            INSERT INTO {rollup_marks} (hour, writer)
            SELECT changed, writing::uuid
            WHERE (EXISTS (SELECT FROM {rollup_hours} AS known WHERE known.hour = changed)
                   OR current_setting('transaction_isolation') <> 'read committed')
              AND NOT (current_setting('session_replication_role') = 'replica'
                       AND EXISTS (SELECT FROM pg_subscription_rel
                                   WHERE srrelid = {rollup_marks_literal}::regclass))
            ON CONFLICT DO NOTHING;
        EXCEPTION WHEN undefined_table OR insufficient_privilege THEN
            RAISE WARNING 'The rollup of % is not kept: %', TG_RELID::regclass, SQLERRM;
        END;
        -- Undone with its savepoint, as are the mark and the row.
        PERFORM set_config('taskiq_pg_json.looked_at', looked, true);
    END LOOP;
    RETURN NULL;
END
{dollars};

DO {dollars}
BEGIN
    EXECUTE format('ALTER FUNCTION %s() SET search_path = pg_catalog, %s, pg_temp', {rollup_mark_literal},
                   (SELECT relnamespace::regnamespace FROM pg_class
                    WHERE oid = {results_literal}::regclass));
END
{dollars};

-- Hours that Python cannot hold stopped all counting.
DELETE FROM {rollup} WHERE hour < '0001-01-02 00:00:00+00';
DELETE FROM {rollup_hours} WHERE hour < '0001-01-02 00:00:00+00';
DELETE FROM {rollup_marks} WHERE hour < '0001-01-02 00:00:00+00';
