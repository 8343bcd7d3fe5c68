-- How far a task is, from the shapes of progress that people report. Numbers are compared before they are
-- multiplied or divided: one row of immense ones must not make every search fail.

CREATE OR REPLACE FUNCTION {progress_percent}(meta jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT round(greatest(0, least(100, share)), 1)
    FROM (SELECT CASE
        WHEN jsonb_typeof(meta -> 'percent') = 'number'
            THEN (meta ->> 'percent')::numeric
        WHEN jsonb_typeof(meta -> 'progress') = 'number'
            THEN greatest(0, (meta ->> 'progress')::numeric)
                 * CASE WHEN (meta ->> 'progress')::numeric <= 1 THEN 100 ELSE 1 END
        WHEN jsonb_typeof(meta -> 'current') = 'number' AND jsonb_typeof(meta -> 'total') = 'number'
            THEN CASE
                WHEN (meta ->> 'total')::numeric = 0 THEN NULL
                WHEN sign((meta ->> 'current')::numeric) <> sign((meta ->> 'total')::numeric) THEN 0
                WHEN abs((meta ->> 'current')::numeric) >= abs((meta ->> 'total')::numeric) THEN 100
                ELSE 100 * ((meta ->> 'current')::numeric / (meta ->> 'total')::numeric)
            END
    END AS share) AS reported
    WHERE share IS NOT NULL);

COMMENT ON FUNCTION {progress_percent}(jsonb) IS
    'Percent done, 0 to 100, from {{"percent": 40}}, {{"progress": 0.4}} or {{"current": 4, "total": 10}}; NULL from any other shape.';

CREATE OR REPLACE FUNCTION {progress_text}(meta jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(meta) = 'string'              THEN meta #>> '{{}}'
    WHEN jsonb_typeof(meta -> 'message') = 'string' THEN meta ->> 'message'
    WHEN jsonb_typeof(meta -> 'status') = 'string'  THEN meta ->> 'status'
END;

COMMENT ON FUNCTION {progress_text}(jsonb) IS
    'What a task says of its progress: its message, else its status, else the meta itself where that is a string.';
