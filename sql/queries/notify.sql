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
