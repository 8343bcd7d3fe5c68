-- schema_version --
-- The table's oid and comment; the type of its task ids; the rights on it and on the progress that this role
-- lacks, as a GRANT names them; this role; whether the progress is there; and which functions and views are
-- missing. NULLs first when there is no such table. Reading pg_class makes the server look afresh:
-- to_regclass() by itself may answer what was true before a lock was waited for.
SELECT found.oid, obj_description(found.oid, 'pg_class'),
       (SELECT format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = found.oid AND attname = 'task_id'),
       (SELECT array_agg(lacking.rights || ' ON ' || used.name ORDER BY used.number)
        FROM unnest(ARRAY[%(table)s, %(progress)s]::text[]) WITH ORDINALITY AS used (name, number),
             LATERAL (SELECT string_agg(needed, ', ')
                      FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS needed
                      WHERE NOT has_table_privilege(to_regclass(used.name), needed)) AS lacking (rights)
        WHERE lacking.rights IS NOT NULL),
       quote_ident(current_user),
       to_regclass(%(progress)s) IS NOT NULL,
       ARRAY(SELECT name FROM unnest(%(functions)s::text[]) AS name
             WHERE to_regprocedure(name || '(jsonb)') IS NULL),
       ARRAY(SELECT name FROM unnest(%(views)s::text[]) AS name WHERE to_regclass(name) IS NULL)
FROM (SELECT to_regclass(%(table)s)::oid) AS wanted (oid)
LEFT JOIN pg_class AS found ON found.oid = wanted.oid;

-- in_the_way --
-- What bears the table's name and no comment of ours: its kind; both as they stand in an ALTER; whether it is a
-- table that has the columns of the results; and the name of its schema.
SELECT type, upper(replace(type, 'composite ', '')) || ' ' || identity,
       type = 'table' AND ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = %(oid)s::oid)
           @> '{task_id,task_name,worker,status,return_value,error,args,kwargs,labels,log,execution_time,
                queued_at,started_at,finished_at,expires_at,types,pickled,serializer}'::text[],
       (SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = %(oid)s::oid)
FROM pg_identify_object('pg_class'::regclass, %(oid)s::oid, 0);

-- stores --
-- The tables of results that stand in a schema, by our comment; in the first of the search path for none.
SELECT relname
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(coalesce(%(schema)s::text, current_schema())))
  AND obj_description(pg_class.oid, 'pg_class') ~ %(comment)s
ORDER BY relname;

-- role_in_use --
-- This role, as it stands in a GRANT.
SELECT quote_ident(current_user);

-- schema_lock --
-- True once this transaction alone may change the schema of that table.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('taskiq-pg-json ' || coalesce(%(schema)s::text, current_schema()) || '.' || %(table)s, 0));

-- schema_lock_timeout --
-- Wait for no lock for more than a second in this transaction: whoever comes later waits as long.
SELECT set_config('lock_timeout', '1s', true)
FROM pg_settings WHERE name = 'lock_timeout' AND setting::bigint NOT BETWEEN 1 AND 1000;

-- be_the_owner --
-- Be the table's owner until this transaction ends, so that what is made beside the table belongs to them;
-- nothing where this session may not be, or where they could not make it, or replace what is there. The
-- table's schema alone is searched then: "$user" in the search path would be another one.
SELECT set_config('role', owner.rolname, true), set_config('search_path', quote_ident(home.nspname), true)
FROM pg_class AS results
JOIN pg_namespace AS home ON home.oid = results.relnamespace
JOIN pg_roles AS owner ON owner.oid = results.relowner
WHERE results.oid = to_regclass(%(table)s) AND owner.rolname <> current_user
  AND pg_has_role(session_user, owner.oid, CASE WHEN current_setting('server_version_num')::integer < 160000
                                                THEN 'MEMBER' ELSE 'SET' END)
  AND has_schema_privilege(owner.oid, home.oid, 'USAGE')
  AND has_schema_privilege(owner.oid, home.oid, 'CREATE')
  AND NOT EXISTS (SELECT FROM pg_class AS beside
                  WHERE beside.relnamespace = home.oid AND beside.relname = ANY (%(names)s)
                    AND NOT pg_has_role(owner.oid, beside.relowner, 'USAGE'))
  AND NOT EXISTS (SELECT FROM pg_proc AS beside
                  WHERE beside.pronamespace = home.oid AND beside.proname = ANY (%(names)s)
                    AND NOT pg_has_role(owner.oid, beside.proowner, 'USAGE'));

-- schema_exists --
-- Whether the schema that the table shall stand in is there.
SELECT to_regnamespace(quote_ident(%(schema)s)) IS NOT NULL;

-- schema_creation_lock --
-- Wait until this transaction alone may make that schema, for whatever table.
SELECT pg_advisory_xact_lock(hashtextextended('taskiq-pg-json ' || %(schema)s, 0));

-- one_transaction --
-- Fail outside a transaction; any role may lock that so.

-- All of this is for one transaction, and outside of one nothing is done: run it by
-- psql --single-transaction --set ON_ERROR_STOP=1, or with BEGIN before and COMMIT after it.
LOCK TABLE pg_catalog.pg_namespace IN ACCESS SHARE MODE;

-- create_schema --
-- Make the schema that the table shall stand in.
CREATE SCHEMA IF NOT EXISTS {schema};

-- taken_names --
-- Which of the names that a table's companions need are taken already; what would drop each, or rename it
-- where it is another table's and would be dropped with that; and whether that drops it.
WITH home AS (
    SELECT to_regnamespace(quote_ident(coalesce(%(schema)s::text, current_schema()))) AS oid
), taken AS (
    SELECT relname AS name,
           CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                        WHEN 'i' THEN 'INDEX' WHEN 'I' THEN 'INDEX' WHEN 'c' THEN 'TYPE'
                        WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind,
           pg_class.oid::regclass::text AS identity
    FROM pg_class JOIN home ON relnamespace = home.oid
    WHERE NOT EXISTS (SELECT FROM pg_index
                      WHERE indexrelid = pg_class.oid
                        AND indrelid IN (to_regclass(%(results)s), to_regclass(%(rollup)s)))
    UNION ALL
    SELECT stxname, 'STATISTICS', format('%%I.%%I', nspname, stxname)
    FROM pg_statistic_ext JOIN home ON stxnamespace = home.oid
    JOIN pg_namespace ON pg_namespace.oid = stxnamespace
    UNION ALL
    SELECT proname, 'ROUTINE', pg_proc.oid::regprocedure::text
    FROM pg_proc JOIN home ON pronamespace = home.oid
)
SELECT name,
       CASE WHEN kind IN ('INDEX', 'STATISTICS')
            THEN format('ALTER %%s %%s RENAME TO %%I;', kind, identity, 'old_' || left(name, 59))
            ELSE format('DROP %%s IF EXISTS %%s CASCADE;', kind, identity) END,
       kind NOT IN ('INDEX', 'STATISTICS')
FROM taken WHERE name = ANY (%(names)s) ORDER BY kind = 'ROUTINE', name, identity;

-- set_schema_version --
-- Write the version into the table's comment; COMMENT takes no bound parameters.
COMMENT ON TABLE {results} IS {comment};
