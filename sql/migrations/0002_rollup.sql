-- The durations of each elapsed hour in classes, so that statistics need not read every row.
--
-- Counts are those of the rows at any time. An hour is answered from here while it is known and counted,
-- no mark stands against it, and none of its rows has expired; every other hour from the rows themselves.
-- A transaction that changes rows of a known hour leaves a mark of its own, which only a count whose
-- snapshot holds its rows takes away. Rows that ended in the last ten minutes leave none, so that writing
-- results costs nothing: their hour becomes known later, and is first counted when every transaction
-- has ended that wrote before it was known.
--
-- Hours that hold are summed up by day as well. A day is answered from its sum while every hour in the sum
-- holds; counting one of these again takes the sum away.

CREATE TABLE {rollup} (
    daily          boolean NOT NULL DEFAULT false,
    hour           timestamptz NOT NULL,
    task_name      text,
    status         text NOT NULL,
    duration_class double precision NOT NULL,
    total          integer NOT NULL,
    timed          integer NOT NULL,
    seconds        double precision,
    longest        double precision,
    waited         integer NOT NULL,
    wait_seconds   double precision,
    longest_wait   double precision
);

CREATE INDEX {results_rollup_hour_idx} ON {rollup} (daily, hour);

-- It has no key, and where a publication is of all tables rows can be deleted all the same.
ALTER TABLE {rollup} REPLICA IDENTITY FULL;

COMMENT ON TABLE  {rollup}                IS 'How many tasks ended in each hour and day, by duration; "hours" says which hours hold.';
COMMENT ON COLUMN {rollup}.daily          IS 'Whether it is the sum of hours of one day.';
COMMENT ON COLUMN {rollup}.hour           IS 'The beginning of the hour, in UTC; of the day where it is a sum.';
COMMENT ON COLUMN {rollup}.task_name      IS 'The task''s name.';
COMMENT ON COLUMN {rollup}.status         IS 'How they ended.';
COMMENT ON COLUMN {rollup}.duration_class IS 'floor(100.5 * ln(seconds)): durations that differ by 1 % at most.';
COMMENT ON COLUMN {rollup}.total          IS 'How many tasks ended.';
COMMENT ON COLUMN {rollup}.timed          IS 'How many of them have a duration.';
COMMENT ON COLUMN {rollup}.seconds        IS 'The sum of the durations.';
COMMENT ON COLUMN {rollup}.longest        IS 'The longest duration, in seconds.';
COMMENT ON COLUMN {rollup}.waited         IS 'How many of them have a wait in the queue.';
COMMENT ON COLUMN {rollup}.wait_seconds   IS 'The sum of the waits.';
COMMENT ON COLUMN {rollup}.longest_wait   IS 'The longest wait, in seconds.';

CREATE TABLE {rollup_hours} (
    hour         timestamptz PRIMARY KEY,
    counted      boolean NOT NULL DEFAULT false,
    summed       boolean NOT NULL DEFAULT false,
    expires_from timestamptz
);

COMMENT ON TABLE  {rollup_hours}              IS 'The hours that the rollup knows.';
COMMENT ON COLUMN {rollup_hours}.hour         IS 'The beginning of the hour, in UTC.';
COMMENT ON COLUMN {rollup_hours}.counted      IS 'Whether its rows have been counted.';
COMMENT ON COLUMN {rollup_hours}.summed       IS 'Whether these counts are in the sum of its day.';
COMMENT ON COLUMN {rollup_hours}.expires_from IS 'When the first of the rows counted expires; NULL means never.';

CREATE TABLE {rollup_marks} (
    hour   timestamptz,
    writer xid8,
    PRIMARY KEY (hour, writer)
);

COMMENT ON TABLE  {rollup_marks}        IS 'The known hours whose rows have changed since they were counted.';
COMMENT ON COLUMN {rollup_marks}.hour   IS 'The beginning of the hour, in UTC.';
COMMENT ON COLUMN {rollup_marks}.writer IS 'The transaction that changed them: each has its own mark, so that none waits for another.';

-- The owner's rights, for whoever may write results. Rows of one hour that follow each other in a
-- transaction have it looked up once: if it becomes known later, it is counted after the transaction has
-- ended. A snapshot of a stricter isolation level may be too old to know the hour. Results are stored even
-- where no mark can be left: nothing is answered from the rollup then ("rollup_access").
CREATE FUNCTION {rollup_mark}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS {dollars}
DECLARE
    changed timestamptz;
    looked  text;
BEGIN
    FOREACH changed IN ARRAY ARRAY[date_trunc('hour', OLD.finished_at, 'UTC'),
                                   date_trunc('hour', NEW.finished_at, 'UTC')]
    LOOP
        CONTINUE WHEN changed IS NULL OR NOT isfinite(changed);
        looked := TG_RELID || ' ' || date_part('epoch', changed)::bigint;
        CONTINUE WHEN looked = current_setting('taskiq_pg_json.looked_at', true);
        BEGIN
            INSERT INTO {rollup_marks} (hour, writer)
            SELECT changed, pg_current_xact_id()
            WHERE EXISTS (SELECT FROM {rollup_hours} AS known WHERE known.hour = changed)
               OR current_setting('transaction_isolation') <> 'read committed'
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

CREATE FUNCTION {rollup_forget}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS {dollars}
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        DELETE FROM {rollup};
        DELETE FROM {rollup_hours};
        DELETE FROM {rollup_marks};
    ELSE  -- those too that its snapshot is too old to see
        TRUNCATE {rollup}, {rollup_hours}, {rollup_marks};
    END IF;
    RETURN NULL;
EXCEPTION WHEN undefined_table OR insufficient_privilege THEN
    RAISE WARNING 'The rollup of % is not emptied: %', TG_RELID::regclass, SQLERRM;
    RETURN NULL;
END
{dollars};

COMMENT ON FUNCTION {rollup_mark}()   IS 'Marks the hours of rows that were changed late.';
COMMENT ON FUNCTION {rollup_forget}() IS 'Empties the rollup with the table.';
REVOKE ALL ON FUNCTION {rollup_mark}() FROM PUBLIC;
REVOKE ALL ON FUNCTION {rollup_forget}() FROM PUBLIC;

-- They find their tables in no schema but the results' own, whatever the caller's search_path.
DO {dollars}
DECLARE
    home    text := (SELECT relnamespace::regnamespace FROM pg_class
                     WHERE oid = {results_literal}::regclass);
    trusted regprocedure;
BEGIN
    FOREACH trusted IN ARRAY ARRAY[{rollup_mark_literal} || '()', {rollup_forget_literal} || '()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %s, pg_temp', trusted, home);
    END LOOP;
END
{dollars};

CREATE TRIGGER {results_rollup_insert} AFTER INSERT ON {results} FOR EACH ROW
    WHEN (NEW.finished_at < clock_timestamp() - interval '10 minutes')
    EXECUTE FUNCTION {rollup_mark}();
CREATE TRIGGER {results_rollup_update} AFTER UPDATE ON {results} FOR EACH ROW
    WHEN (OLD.finished_at < clock_timestamp() - interval '10 minutes'
          OR NEW.finished_at < clock_timestamp() - interval '10 minutes')
    EXECUTE FUNCTION {rollup_mark}();
CREATE TRIGGER {results_rollup_delete} AFTER DELETE ON {results} FOR EACH ROW
    WHEN (OLD.finished_at < clock_timestamp() - interval '10 minutes')
    EXECUTE FUNCTION {rollup_mark}();
CREATE TRIGGER {results_rollup_truncate} AFTER TRUNCATE ON {results}
    EXECUTE FUNCTION {rollup_forget}();

-- Rows that replication brings, or a load with session_replication_role = replica, count as well.
ALTER TABLE {results} ENABLE ALWAYS TRIGGER {results_rollup_insert},
    ENABLE ALWAYS TRIGGER {results_rollup_update},
    ENABLE ALWAYS TRIGGER {results_rollup_delete},
    ENABLE ALWAYS TRIGGER {results_rollup_truncate};
