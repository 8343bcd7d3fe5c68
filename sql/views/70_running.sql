-- What runs now, or waits, or was left behind by a worker that died.

CREATE OR REPLACE VIEW {running} AS
SELECT task_id,
       task_name,
       status,
       progress_percent,
       progress_text,
       progress_at,
       worker,
       CASE WHEN started_at IS NULL THEN date_part('epoch', now() - queued_at)
            ELSE wait_time END                     AS wait_time,
       date_part('epoch', now() - started_at)      AS running_time,
       args,
       kwargs,
       labels,
       queued_at,
       started_at
FROM {outcomes}
WHERE finished_at IS NULL;

COMMENT ON VIEW {running} IS 'Every task that is queued, has started or will be tried again, with its latest progress. Times in seconds.';
COMMENT ON COLUMN {running}.task_id          IS 'The task''s id.';
COMMENT ON COLUMN {running}.task_name        IS 'The task''s name.';
COMMENT ON COLUMN {running}.status           IS 'QUEUED, STARTED or RETRY.';
COMMENT ON COLUMN {running}.progress_percent IS 'How far the task is, 0 to 100, where its progress says so.';
COMMENT ON COLUMN {running}.progress_text    IS 'What the task says of its progress.';
COMMENT ON COLUMN {running}.progress_at      IS 'When the task last reported it.';
COMMENT ON COLUMN {running}.worker           IS 'host:pid of the worker; NULL until one has taken the task.';
COMMENT ON COLUMN {running}.wait_time        IS 'Seconds that the task waited to be started, or has waited so far.';
COMMENT ON COLUMN {running}.running_time     IS 'Seconds since a worker began it; NULL until then.';
COMMENT ON COLUMN {running}.args             IS 'The positional arguments.';
COMMENT ON COLUMN {running}.kwargs           IS 'The keyword arguments.';
COMMENT ON COLUMN {running}.labels           IS 'The task''s labels; NULL when it has none.';
COMMENT ON COLUMN {running}.queued_at        IS 'When the task was sent.';
COMMENT ON COLUMN {running}.started_at       IS 'When a worker began the task.';
