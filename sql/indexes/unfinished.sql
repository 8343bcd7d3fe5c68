-- What runs now, or waits, or was left behind.

CREATE INDEX IF NOT EXISTS {results_unfinished_idx} ON {results} (status, started_at, task_id)
    WHERE finished_at IS NULL;
