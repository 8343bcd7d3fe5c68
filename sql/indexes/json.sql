-- Containment (@>) and SQL/JSON path (@@, @?) on everything that a user stores. A column that is NULL
-- takes a place in a GIN index of several columns all the same: the call is apart from what it
-- returned, and only indexed where something is known of it. Any condition that this index serves
-- implies that.

CREATE INDEX IF NOT EXISTS {results_json_gin} ON {results} USING gin (return_value jsonb_path_ops);
CREATE INDEX IF NOT EXISTS {results_call_gin} ON {results}
    USING gin (kwargs jsonb_path_ops, args jsonb_path_ops, labels jsonb_path_ops)
    WHERE kwargs IS NOT NULL OR args IS NOT NULL OR labels IS NOT NULL;
