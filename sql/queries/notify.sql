-- notify --
-- Tell whoever listens which tasks have ended or progressed; each payload is a JSON array of ids.
-- Nothing is written that a crash could lose, so that the commit need not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s::text, payload) FROM unnest(%(payloads)b::text[]) AS batch (payload);

-- listen_results --
-- Be told which tasks have ended.
LISTEN {channel_ended};

-- listen_progress --
-- Be told which tasks have progressed.
LISTEN {channel_progressed};

-- unlisten_results --
-- Leave no server of a pooler behind that tells others which tasks have ended.
UNLISTEN {channel_ended};

-- unlisten_progress --
-- Nor which have progressed.
UNLISTEN {channel_progressed};

-- server_pid --
-- Which process of the server answers: behind a pooler it may be another one each time.
SELECT pg_backend_pid();

-- table_schema --
-- The schema that the table is found in: whoever names it shares the channels of those who do not.
SELECT nspname::text FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = to_regclass({results_literal});
