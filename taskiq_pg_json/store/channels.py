"""Says on which channels a table's events are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from taskiq_pg_json.schema import queries

if TYPE_CHECKING:
    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections


class Channels:
    """Finds out which schema the table is in, once.

    Stores that name the schema and such that leave it to the ``search_path`` are told of the same
    events so, and those of two tables of one name are not.
    """

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._names = names
        self._table_schema = names.statement(queries()["table_schema"])
        self._is_known = names.schema is not None

    async def names(self) -> Names:
        """Return the names with the schema; without it as long as there is no table."""
        if not self._is_known:
            for (schema,) in await self._connections.execute(self._table_schema, {}):
                self._names = replace(self._names, schema=str(schema))
                self._is_known = True
        return self._names

    async def name(self, event: str) -> str:
        """Return the channel of an event."""
        return (await self.names()).channel(event)
