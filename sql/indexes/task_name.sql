-- The newest results of one task. Ascending: new entries go to the right end, where they are cheap.
-- Results of tasks that no middleware names have no place in it.

CREATE INDEX IF NOT EXISTS {results_task_name_idx} ON {results} (task_name, finished_at, task_id)
    WHERE task_name IS NOT NULL;
