-- What may be deleted.

CREATE INDEX IF NOT EXISTS {results_expires_at_idx} ON {results} (expires_at)
    WHERE expires_at IS NOT NULL;
