-- create_typed_view --
-- The results of one task until they expire, each field of the return value a column.
CREATE OR REPLACE VIEW {view} AS
SELECT result.task_id, result.finished_at, result.execution_time, {columns}
FROM {results} AS result
WHERE result.task_name = {task_name} AND result.status = 'SUCCESS'
  AND (result.expires_at IS NULL OR result.expires_at > now());

-- drop_typed_view --
-- Drop a view that was made of a task.
DROP VIEW {view};

-- typed_view_privileges --
-- What others may do with a view: the privilege, whose it is (NULL is everybody), whether it may be passed on.
SELECT privilege_type, CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee)::text END, is_grantable
FROM pg_class CROSS JOIN LATERAL aclexplode(relacl)
WHERE pg_class.oid = to_regclass(%(view)s) AND grantee <> relowner;

-- grant_typed_view --
-- Let others do with a view what they could with the one before.
GRANT {privilege} ON {view} TO {role} {option};

-- comment_typed_view --
-- Say whose view it is.
COMMENT ON VIEW {view} IS {comment};

-- view_comment --
-- What kind of thing bears a name, and its comment; NULLs where there is none.
SELECT (SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%(view)s)),
       obj_description(to_regclass(%(view)s), 'pg_class');

-- create_field_index --
-- An index of what a column of the view says, of this task alone. Writers go on meanwhile.
CREATE INDEX CONCURRENTLY {index} ON {results} (({expression}))
WHERE task_name = {task_name} AND status = 'SUCCESS';

-- comment_field_index --
-- Say whose index it is.
COMMENT ON INDEX {index} IS {index_comment};

-- drop_field_index --
-- Drop an index that is no longer wanted.
DROP INDEX CONCURRENTLY IF EXISTS {index};

-- field_indexes --
-- The indexes of one view's columns: their names, and whether they are whole. One that nobody has said
-- anything of was left behind while it was made.
SELECT held.relname::text, pg_index.indisvalid
FROM pg_index JOIN pg_class AS held ON held.oid = pg_index.indexrelid
WHERE pg_index.indrelid = to_regclass(%(table)s)
  AND coalesce(obj_description(held.oid, 'pg_class') = %(comment)s, held.relname = ANY (%(wanted)s::text[]));

-- field_column --
-- A field as a column.
{expression} AS {field}

-- field_value --
-- The JSON of a field.
(return_value -> {key})

-- whole_value --
-- The JSON of a value that has no fields.
return_value

-- json_text --
-- JSON as text, which a text is without its quotes.
({value} #>> ARRAY[]::text[])

-- as_text --
-- A text, and the text of anything else.
{text}

-- as_short_text --
-- Likewise of at most 2,000 bytes, which an index can hold; NULL of anything longer.
CASE WHEN octet_length({text}) <= 2000 THEN {text} END

-- as_boolean --
-- True or false; NULL of anything else.
CASE jsonb_typeof({value}) WHEN 'boolean' THEN {value}::boolean END

-- as_bigint --
-- A whole number of 64 bits; NULL of anything else.
CASE WHEN jsonb_typeof({value}) = 'number'
     THEN CASE WHEN {value}::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
                    AND {value}::numeric = trunc({value}::numeric)
               THEN {value}::bigint END END

-- as_double --
-- A floating-point number, be it none or infinite; NULL of anything else, and beyond its range.
CASE WHEN jsonb_typeof({value}) = 'number'
     THEN CASE WHEN {value}::numeric = 0
                    OR abs({value}::numeric) BETWEEN 5e-324 AND 1.7976931348623157e308
               THEN {value}::double precision END
     WHEN {text} IN ('NaN', 'Infinity', '-Infinity', '-0.0') THEN {text}::double precision END

-- as_numeric --
-- A number, or the text of a Decimal, of at most 1,000 digits on each side of the point, be it infinite;
-- NULL of anything else, and of what is no number, for PostgreSQL sorts that behind all numbers.
CASE WHEN jsonb_typeof({value}) = 'number'
     THEN CASE WHEN abs({value}::numeric) < 1e1000 AND scale({value}::numeric) <= 1000
               THEN {value}::numeric END
     WHEN length({text}) <= 1000 AND {text} ~ '^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9][0-9]?[0-9]?)?$'
          OR {text} IN ('Infinity', '-Infinity')
     THEN {text}::numeric END

-- as_timestamptz --
-- A moment; one with no zone is of the session's, one with no time its day's first. NULL of
-- anything else, and of what is in no calendar. Which days a month has is asked of the last alone: a
-- regular expression of both day and time takes twice as long.
CASE WHEN length({text}) <= 64 AND {text} ~
          '^[0-9][0-9][0-9][0-9]-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?(Z|[+-](0[0-9]|1[0-5])(:[0-5][0-9](:[0-5][0-9])?|[0-5][0-9])?)?)?$'
          AND substr({text}, 1, 4) <> '0000' AND (substr({text}, 9, 2) < '29' OR {text} ~ '^{day}')
     THEN {text}::timestamptz END

-- as_date --
-- A date; NULL of anything else.
CASE WHEN {text} ~ '^{day}$' THEN {text}::date END

-- day_of_the_calendar --
-- A regular expression of all days from the year 1 to 9999.
(?!0000)([0-9][0-9][0-9][0-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|([0-9][0-9](0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)

-- as_interval --
-- A duration in ISO 8601, each part of at most nine digits; NULL of anything else.
CASE WHEN {text} ~ '^P(?=.*[0-9][DHMS]$)(-?{digits}D)?(T(-?{digits}H)?(-?{digits}M)?(-?{digits}([.]{digits})?S)?)?$'
     THEN {text}::interval END

-- up_to_nine_digits --
-- A regular expression of as many as every unit of time can have.
[0-9][0-9]?[0-9]?[0-9]?[0-9]?[0-9]?[0-9]?[0-9]?[0-9]?

-- as_uuid --
-- A UUID; NULL of anything else.
CASE WHEN length(replace({text}, '-', '')) = 32
          AND {text} ~ '^[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F](-?[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F])+$'
     THEN {text}::uuid END

-- as_jsonb --
-- Anything, as the JSON that it is.
{value}
