"""A cursor that works alike on every connection, its own pool's or one that was lent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import AsyncCursor
from psycopg.rows import tuple_row
from typing_extensions import override

from taskiq_pg_json.schema.files import queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection
    from psycopg.abc import Params
    from typing_extensions import Self


class PlainCursor(AsyncCursor[tuple[Any, ...]]):
    """Gives tuples and prepares nothing, whatever factories and threshold the connection has.

    What psycopg prepares by itself has the same names in every process: behind a pooler that
    changes servers between transactions, one name may stand for the statement of another client.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @override
    async def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        prepare: bool | None = False,
        binary: bool | None = None,
    ) -> Self:
        return await super().execute(query, params, prepare=prepare, binary=binary)


async def fetch(
    connection: AsyncConnection[Any], query: str, values: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Run the query of that name in ``sql/queries/``."""
    cursor = await PlainCursor(connection).execute(queries()[query].encode(), values)
    return await cursor.fetchall()
