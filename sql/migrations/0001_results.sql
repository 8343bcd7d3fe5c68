-- The results, and the progress of running tasks.

CREATE TABLE {results} (
    task_id        {task_id_type} PRIMARY KEY,
    task_name      text,
    worker         text,
    status         text NOT NULL
                   CHECK (status IN ('QUEUED', 'STARTED', 'RETRY', 'SUCCESS', 'FAILURE')),
    return_value   jsonb,
    error          jsonb,
    args           jsonb,
    kwargs         jsonb,
    labels         jsonb,
    log            text,
    execution_time double precision,
    queued_at      timestamptz,
    started_at     timestamptz,
    finished_at    timestamptz,
    expires_at     timestamptz,
    types          jsonb,
    pickled        bytea,
    serializer     text
) WITH (
    autovacuum_vacuum_insert_scale_factor = 0.02
);

-- What is larger than 2 kB is compressed. lz4, where the server has it, takes a small part of pglz's time.
DO {dollars}
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_settings
               WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE {results}
            ALTER return_value SET COMPRESSION lz4,
            ALTER error        SET COMPRESSION lz4,
            ALTER args         SET COMPRESSION lz4,
            ALTER kwargs       SET COMPRESSION lz4,
            ALTER log          SET COMPRESSION lz4,
            ALTER types        SET COMPRESSION lz4,
            ALTER pickled      SET COMPRESSION lz4;
    END IF;
END
{dollars};

COMMENT ON COLUMN {results}.task_id        IS 'The task''s id, as taskiq made it.';
COMMENT ON COLUMN {results}.task_name      IS 'The task''s name; NULL without TaskInfoMiddleware.';
COMMENT ON COLUMN {results}.worker         IS 'host:pid of the worker; NULL without TaskInfoMiddleware.';
COMMENT ON COLUMN {results}.status         IS 'QUEUED, STARTED, RETRY, SUCCESS or FAILURE.';
COMMENT ON COLUMN {results}.return_value   IS 'What the task returned, as plain JSON; SQL NULL until it has finished.';
COMMENT ON COLUMN {results}.error          IS 'What the task raised: type, module, message, args, traceback, cause and so on.';
COMMENT ON COLUMN {results}.args           IS 'The positional arguments that the task was called with.';
COMMENT ON COLUMN {results}.kwargs         IS 'The keyword arguments that the task was called with.';
COMMENT ON COLUMN {results}.labels         IS 'The task''s labels; NULL when it has none.';
COMMENT ON COLUMN {results}.log            IS 'TaskiqResult.log.';
COMMENT ON COLUMN {results}.execution_time IS 'How long the task ran, in seconds.';
COMMENT ON COLUMN {results}.queued_at      IS 'When the task was sent; NULL without TaskInfoMiddleware.';
COMMENT ON COLUMN {results}.started_at     IS 'When a worker began the task; NULL without TaskInfoMiddleware.';
COMMENT ON COLUMN {results}.finished_at    IS 'When the task ended; the result is ready when this is not NULL.';
COMMENT ON COLUMN {results}.expires_at     IS 'When the row may be purged; NULL means never.';
COMMENT ON COLUMN {results}.types          IS 'The Python types that plain JSON cannot say; NULL when there are none.';
COMMENT ON COLUMN {results}.pickled        IS 'What JSON cannot hold; NULL almost always.';
COMMENT ON COLUMN {results}.serializer     IS 'Which serializer wrote the row.';

-- How many classes of duration there are, so that counting them is planned without a sort.
CREATE STATISTICS {duration_classes} ON (floor(100.5 * ln(greatest(execution_time, 1e-6)))) FROM {results};

-- Frequent updates of one row stay on its page (HOT): no index but the key, and room on each page.
CREATE TABLE {progress} (
    task_id    {task_id_type} PRIMARY KEY,
    state      text NOT NULL,
    meta       jsonb,
    types      jsonb,
    pickled    bytea,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 500
);

COMMENT ON TABLE  {progress}            IS 'The latest progress that each task has reported.';
COMMENT ON COLUMN {progress}.task_id    IS 'The task''s id.';
COMMENT ON COLUMN {progress}.state      IS 'A TaskState word or any other string.';
COMMENT ON COLUMN {progress}.meta       IS 'What the task reported, as plain JSON.';
COMMENT ON COLUMN {progress}.types      IS 'The Python types that plain JSON cannot say.';
COMMENT ON COLUMN {progress}.pickled    IS 'What JSON cannot hold.';
COMMENT ON COLUMN {progress}.updated_at IS 'When the task reported it.';
