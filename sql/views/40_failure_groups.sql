-- The failures by their cause: what to look at first.

CREATE OR REPLACE VIEW {failure_groups} AS
WITH grouped AS (
    SELECT task_name,
           error_type,
           fingerprint,
           count(*)                                                             AS total,
           count(*) FILTER (WHERE finished_at >= now() - interval '1 hour')     AS last_hour,
           count(*) FILTER (WHERE finished_at >= now() - interval '24 hours')   AS last_day,
           count(*) FILTER (WHERE finished_at >= now() - interval '168 hours')  AS last_week,
           min(finished_at)                                                     AS first_seen,
           max(finished_at)                                                     AS last_seen,
           (array_agg(task_id ORDER BY finished_at DESC, task_id DESC))[1]      AS sample_task_id
    FROM {failures}
    GROUP BY task_name, error_type, fingerprint
)
SELECT grouped.task_name,
       grouped.error_type,
       newest.error ->> 'message' AS error_message,
       grouped.fingerprint,
       grouped.total,
       grouped.last_hour,
       grouped.last_day,
       grouped.last_week,
       grouped.first_seen,
       grouped.last_seen,
       grouped.sample_task_id
FROM grouped
JOIN {results} AS newest ON newest.task_id = grouped.sample_task_id;

COMMENT ON VIEW {failure_groups} IS 'The failures by their cause, one row for each error type, task and fingerprint.';
COMMENT ON COLUMN {failure_groups}.task_name      IS 'The task''s name.';
COMMENT ON COLUMN {failure_groups}.error_type     IS 'The class of what the task raised.';
COMMENT ON COLUMN {failure_groups}.error_message  IS 'The message of the latest of these failures.';
COMMENT ON COLUMN {failure_groups}.fingerprint    IS 'What these failures have in common.';
COMMENT ON COLUMN {failure_groups}.total          IS 'How many there are.';
COMMENT ON COLUMN {failure_groups}.last_hour      IS 'How many of them in the last hour.';
COMMENT ON COLUMN {failure_groups}.last_day       IS 'How many of them in the last 24 hours.';
COMMENT ON COLUMN {failure_groups}.last_week      IS 'How many of them in the last 7 days.';
COMMENT ON COLUMN {failure_groups}.first_seen     IS 'When the first of them failed.';
COMMENT ON COLUMN {failure_groups}.last_seen      IS 'When the latest of them failed.';
COMMENT ON COLUMN {failure_groups}.sample_task_id IS 'The task id of the latest of them.';
