-- Failures are few and looked at most: of all tasks, and of one.

CREATE INDEX IF NOT EXISTS {results_failures_idx} ON {results} (finished_at, task_id)
    WHERE status = 'FAILURE';
CREATE INDEX IF NOT EXISTS {results_failures_by_task_idx} ON {results} (task_name, finished_at, task_id)
    WHERE status = 'FAILURE' AND task_name IS NOT NULL;
