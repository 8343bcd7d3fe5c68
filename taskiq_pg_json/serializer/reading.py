"""Reading one row: its columns, by its sidecar, with its pickled leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import orjson

from taskiq_pg_json.errors import ResultDecodeError
from taskiq_pg_json.serializer.decoder import Decoder
from taskiq_pg_json.serializer.exceptions.printable import message_of
from taskiq_pg_json.serializer.frames import writer_of
from taskiq_pg_json.serializer.sidecar import is_sidecar, shared
from taskiq_pg_json.serializer.tracing import TracingDecoder

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.lookup import Lookup
    from taskiq_pg_json.serializer.pickling import PickleFallback
    from taskiq_pg_json.serializer.protocol import EncodedRow, Node


class RowReader:
    """Decodes the columns of one row."""

    def __init__(
        self, lookup: Lookup, fallback: PickleFallback | None, row: EncodedRow, task_id: str
    ) -> None:
        self._lookup = lookup
        self._fallback = fallback
        self._row = row
        self._task_id = task_id
        self._leaves: list[bytes] | None = None
        self._decoder = Decoder(lookup, self._leaf)

    def read(self) -> dict[str, object]:
        """The values of the columns.

        Raises:
            ResultDecodeError: the row is damaged, or holds what may not be read.
        """
        types = self._types()
        values: dict[str, object] = {}
        for name, data in self._row.columns.items():
            node = types.get(name)
            if node is None and name != "error":
                values[name] = self._loads(name, data)
            else:
                values[name] = self._column(
                    name, data, cast("Node | None", node), types.get("parts")
                )
        return values

    def _loads(self, name: str, data: bytes) -> object:
        try:
            return orjson.loads(data)
        except Exception as exc:
            raise self._error(name, data, None, exc) from exc

    def _types(self) -> dict[str, object]:
        data = self._row.types
        if data is None:
            return {}
        known = shared(data)
        if known is not None:
            return known
        types = self._loads("types", data)
        if not is_sidecar(types):
            problem = ValueError("damaged, or written by a newer version of taskiq-pg-json")
            raise self._error("types", types, None, problem)
        return types

    def _column(self, name: str, data: bytes, node: Node | None, parts: object) -> object:
        plain = self._loads(name, data)
        if plain is None:
            return None
        try:
            return self._decoder.column_of(name, plain, node, parts)
        except Exception:  # noqa: BLE001 - whatever it was, the next decoder says where
            tracing = TracingDecoder(self._lookup, self._leaf, name)
        try:
            plain, parts = self._loads(name, data), self._types().get("parts")
            return tracing.column_of(name, plain, node, parts)
        except Exception as exc:
            failed, failed_node = tracing.failed or (plain, node)
            raise self._error("".join(tracing.path), failed, failed_node, exc) from exc

    def _leaf(self, number: int) -> object:
        """The value of a pickled leaf.

        Raises:
            ValueError: there is none, or it may not be read.
        """
        writer = writer_of(self._row.pickled or b"")
        if writer is not None:
            raise ValueError(f"it was written by {writer}: give that serializer to read it")
        if self._fallback is None:
            raise ValueError(
                "it was pickled, and fallback=None reads no pickle: JsonSerializer("
                "fallback=PickleFallback(…)) does"
            )
        if self._row.pickled is None:
            raise ValueError("its pickle is missing: the row was read without its pickled column")
        if self._leaves is None:
            self._leaves = self._fallback.unpack(self._row.pickled, task_id=self._task_id)
        return self._fallback.loads(self._leaves[number])

    def _error(self, path: str, plain: object, node: object, exc: Exception) -> ResultDecodeError:
        named = node
        if isinstance(node, dict):
            named = node.get("type", "pickle" if "pickle" in node else None)
        return ResultDecodeError(
            f"task {self._task_id}: {path} ({named or 'JSON'}) cannot be turned into Python again:"
            f" {type(exc).__name__}: {message_of(exc)}. Its plain JSON is in the error's .plain",
            task_id=self._task_id,
            path=path,
            type_name=str(named or "JSON"),
            plain=plain,
        )
