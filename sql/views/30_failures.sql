-- Every task that failed, with what it raised.

CREATE OR REPLACE VIEW {failures} AS
SELECT task_id,
       task_name,
       error ->> 'type'        AS error_type,
       error ->> 'module'      AS error_module,
       error ->> 'message'     AS error_message,
       error ->> 'fingerprint' AS fingerprint,
       error ->> 'traceback'   AS traceback,
       args,
       kwargs,
       labels,
       worker,
       execution_time,
       started_at,
       finished_at
FROM {results}
WHERE status = 'FAILURE' AND (expires_at IS NULL OR expires_at > now());

COMMENT ON VIEW {failures} IS 'Every task that failed, with what it raised, until it expires.';
COMMENT ON COLUMN {failures}.task_id        IS 'The task''s id.';
COMMENT ON COLUMN {failures}.task_name      IS 'The task''s name.';
COMMENT ON COLUMN {failures}.error_type     IS 'The class of what the task raised.';
COMMENT ON COLUMN {failures}.error_module   IS 'The module of that class.';
COMMENT ON COLUMN {failures}.error_message  IS 'The message of what the task raised.';
COMMENT ON COLUMN {failures}.fingerprint    IS 'The same for failures of the same cause.';
COMMENT ON COLUMN {failures}.traceback      IS 'The traceback, as the worker would have printed it.';
COMMENT ON COLUMN {failures}.args           IS 'The positional arguments.';
COMMENT ON COLUMN {failures}.kwargs         IS 'The keyword arguments.';
COMMENT ON COLUMN {failures}.labels         IS 'The task''s labels; NULL when it has none.';
COMMENT ON COLUMN {failures}.worker         IS 'host:pid of the worker.';
COMMENT ON COLUMN {failures}.execution_time IS 'Seconds that the task ran.';
COMMENT ON COLUMN {failures}.started_at     IS 'When a worker began the task.';
COMMENT ON COLUMN {failures}.finished_at    IS 'When the task failed.';
