-- The newest results of all, and the statistics of a span of time, which find all they need here.

CREATE INDEX IF NOT EXISTS {results_finished_at_idx} ON {results} (finished_at, task_id)
    INCLUDE (task_name, status, execution_time, queued_at, started_at, expires_at);
