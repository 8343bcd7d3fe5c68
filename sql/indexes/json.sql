-- Containment (@>) and SQL/JSON path (@@, @?) on everything that a user stores. One index of four
-- columns costs no more than four, and answers conditions on several at once.

CREATE INDEX IF NOT EXISTS {results_json_gin} ON {results}
    USING gin (return_value jsonb_path_ops, kwargs jsonb_path_ops, args jsonb_path_ops, labels jsonb_path_ops);
