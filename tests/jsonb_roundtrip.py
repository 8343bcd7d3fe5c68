"""Encoded rows through real columns and back, without the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_pg_json.serializer.protocol import EncodedRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

_CREATE = """
CREATE TEMPORARY TABLE roundtrip (position integer, value jsonb, pickled bytea)
ON COMMIT DELETE ROWS
"""
_INSERT = """
INSERT INTO roundtrip
SELECT position, value::jsonb, pickled
FROM unnest(%s::text[], %s::bytea[]) WITH ORDINALITY AS given (value, pickled, position)
"""
_SELECT = "SELECT value::text, pickled FROM roundtrip ORDER BY position"


class JsonbRoundtrip:
    """Stores an encoded row as the server would keep it: ``row = jsonb_roundtrip(row)``."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        connection.execute(_CREATE)
        connection.commit()

    def __call__(self, row: EncodedRow) -> EncodedRow:
        return self.many([row])[0]

    def many(self, rows: Sequence[EncodedRow]) -> list[EncodedRow]:
        """All of the rows in one statement."""
        values: list[str | None] = []
        pickled: list[bytes | None] = []
        for row in rows:
            values += [text.decode() for text in row.columns.values()]
            values.append(None if row.types is None else row.types.decode())
            pickled += [None] * len(row.columns) + [row.pickled]
        with self._connection.transaction():
            self._connection.execute(_INSERT, [values, pickled])
            stored = iter(self._connection.execute(_SELECT, binary=True).fetchall())
        return [_rebuilt(row, stored) for row in rows]


def _rebuilt(row: EncodedRow, stored: Iterable[tuple[str | None, bytes | None]]) -> EncodedRow:
    columns = {name: next(stored)[0].encode() for name in row.columns}
    types, pickled = next(stored)
    return EncodedRow(columns, None if types is None else types.encode(), pickled)
