"""A PostgreSQL server of one's own, in a directory, for development, tests and demos.

::

    backend = JsonbResultBackend(dsn=EmbeddedPostgres("./.pg"))

    with EmbeddedPostgres("./.pg") as server:
        psycopg.connect(server.dsn)

``server`` runs it, ``users`` counts who uses it, ``guard`` stops it when the last one was killed,
``host`` knows what the operating system wants.
"""

from __future__ import annotations

from taskiq_pg_json.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
