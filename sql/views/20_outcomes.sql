-- One readable row a task, finished or not. Two arms rather than a full join: a condition on the
-- view reaches the indexes of the tables.

CREATE OR REPLACE VIEW {outcomes} AS
SELECT result.task_id,
       result.task_name,
       result.status,
       result.return_value,
       result.error ->> 'type'           AS error_type,
       result.error ->> 'message'        AS error_message,
       result.args,
       result.kwargs,
       result.labels,
       progress.state                    AS progress_state,
       {progress_percent}(progress.meta) AS progress_percent,
       {progress_text}(progress.meta)    AS progress_text,
       progress.meta                     AS progress_meta,
       progress.updated_at               AS progress_at,
       result.worker,
       result.log,
       extract(epoch FROM result.started_at - result.queued_at)::double precision AS wait_time,
       coalesce(result.execution_time, extract(
           epoch FROM coalesce(result.finished_at, now()) - result.started_at)::double precision)
                                                                                  AS execution_time,
       result.queued_at,
       result.started_at,
       result.finished_at,
       result.expires_at
FROM {results} AS result
LEFT JOIN {progress} AS progress USING (task_id)
WHERE result.expires_at IS NULL OR result.expires_at > now()
UNION ALL
SELECT progress.task_id,
       NULL,
       'STARTED',
       NULL, NULL, NULL, NULL, NULL, NULL,
       progress.state,
       {progress_percent}(progress.meta),
       {progress_text}(progress.meta),
       progress.meta,
       progress.updated_at,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM {progress} AS progress
WHERE NOT EXISTS (SELECT FROM {results} AS result WHERE result.task_id = progress.task_id);

COMMENT ON VIEW {outcomes} IS 'One readable row a task, with its latest progress, until it expires. Times in seconds.';
COMMENT ON COLUMN {outcomes}.task_id          IS 'The task''s id.';
COMMENT ON COLUMN {outcomes}.task_name        IS 'The task''s name.';
COMMENT ON COLUMN {outcomes}.status           IS 'QUEUED, STARTED, RETRY, SUCCESS or FAILURE.';
COMMENT ON COLUMN {outcomes}.return_value     IS 'What the task returned.';
COMMENT ON COLUMN {outcomes}.error_type       IS 'The class of what the task raised.';
COMMENT ON COLUMN {outcomes}.error_message    IS 'The message of what the task raised.';
COMMENT ON COLUMN {outcomes}.args             IS 'The positional arguments.';
COMMENT ON COLUMN {outcomes}.kwargs           IS 'The keyword arguments.';
COMMENT ON COLUMN {outcomes}.labels           IS 'The task''s labels; NULL when it has none.';
COMMENT ON COLUMN {outcomes}.progress_state   IS 'The state that the task last reported.';
COMMENT ON COLUMN {outcomes}.progress_percent IS 'How far the task is, 0 to 100, where its progress says so.';
COMMENT ON COLUMN {outcomes}.progress_text    IS 'What the task says of its progress.';
COMMENT ON COLUMN {outcomes}.progress_meta    IS 'The progress as the task reported it.';
COMMENT ON COLUMN {outcomes}.progress_at      IS 'When the task reported it.';
COMMENT ON COLUMN {outcomes}.worker           IS 'host:pid of the worker.';
COMMENT ON COLUMN {outcomes}.log              IS 'TaskiqResult.log.';
COMMENT ON COLUMN {outcomes}.wait_time        IS 'Seconds from being sent to being started.';
COMMENT ON COLUMN {outcomes}.execution_time   IS 'Seconds that the task ran, or has run so far.';
COMMENT ON COLUMN {outcomes}.queued_at        IS 'When the task was sent.';
COMMENT ON COLUMN {outcomes}.started_at       IS 'When a worker began the task.';
COMMENT ON COLUMN {outcomes}.finished_at      IS 'When the task ended; NULL while it has not.';
COMMENT ON COLUMN {outcomes}.expires_at       IS 'When the row disappears from here and may be purged; NULL means never.';
