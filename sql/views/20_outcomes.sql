-- One readable row a task, finished or not. Two plain arms rather than a full join, and all else after
-- them: conditions and the order reach the indexes of the tables, and a page computes its own rows only.

CREATE OR REPLACE VIEW {outcomes} AS
SELECT task.task_id,
       task.task_name,
       task.status,
       task.return_value,
       task.error ->> 'type'             AS error_type,
       task.error ->> 'message'          AS error_message,
       task.args,
       task.kwargs,
       task.labels,
       progress.state                    AS progress_state,
       {progress_percent}(progress.meta) AS progress_percent,
       {progress_text}(progress.meta)    AS progress_text,
       progress.meta                     AS progress_meta,
       progress.updated_at               AS progress_at,
       task.worker,
       task.log,
       extract(epoch FROM task.started_at - task.queued_at)::double precision AS wait_time,
       coalesce(task.execution_time, extract(
           epoch FROM coalesce(task.finished_at, now()) - task.started_at)::double precision)
                                                                              AS execution_time,
       task.queued_at,
       task.started_at,
       task.finished_at,
       task.expires_at
FROM (
    SELECT result.task_id, result.task_name, result.status, result.return_value, result.error,
           result.args, result.kwargs, result.labels, result.worker, result.log,
           result.execution_time, result.queued_at, result.started_at, result.finished_at,
           result.expires_at, true AS is_shown
    FROM {results} AS result
    UNION ALL
    SELECT alone.task_id, NULL, 'STARTED', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL,
           NOT EXISTS (SELECT FROM {results} AS result WHERE result.task_id = alone.task_id)
    FROM {progress} AS alone
) AS task
LEFT JOIN {progress} AS progress USING (task_id)
WHERE task.is_shown AND (task.expires_at IS NULL OR task.expires_at > now());

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
COMMENT ON COLUMN {outcomes}.expires_at       IS 'When the row disappears from here and may be deleted; NULL means never.';
