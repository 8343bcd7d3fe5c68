"""Writing one row: its columns, its sidecar, its pickled leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer.careful import CarefulEncoder, TangledError
from taskiq_pg_json.serializer.cycles import survey
from taskiq_pg_json.serializer.encoder import Encoder, OverBudgetError
from taskiq_pg_json.serializer.exceptions import describe_exception, outline_exception
from taskiq_pg_json.serializer.jsontext import dumps
from taskiq_pg_json.serializer.protocol import EncodedRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskiq_pg_json.serializer.plan import Plan
    from taskiq_pg_json.serializer.protocol import Encoded, Node

VERSION = 1
"""The version of the sidecar."""

_NUL = b"\\u0000"
_BUDGET = 100_000
"""Containers that a column may have before it is looked at for what it shares."""
_SHARING = 4
"""How often a container may be met on average; beyond, the column is pickled as a whole."""
_EMPTY = {dict: b"{}", list: b"[]", type(None): b"null", str: b'""', bool: b"false", int: b"0"}


class RowWriter:
    """Encodes the columns of one row."""

    def __init__(self, plan: Plan, task_id: str) -> None:
        self._plan = plan
        self._task_id = task_id
        self._start()

    def _start(self) -> None:
        self._encoder = Encoder(self._plan, self._task_id)
        self._leaves = self._encoder.leaves
        self._parts: list[Encoded] = []

    def write(self, columns: Mapping[str, object]) -> EncodedRow:
        """The row of these columns; an error too large for it is cut short.

        Raises:
            ResultEncodeError: a column other than ``error`` cannot be stored.
        """
        row = self._write(columns, None)
        error = columns.get("error")
        if self._size(row) > self._plan.max_bytes and isinstance(error, BaseException):
            for shorten in (describe_exception, outline_exception):
                self._start()
                row = self._write(columns, shorten(error))
                if self._size(row) <= self._plan.max_bytes:
                    break
        self._check_size(row)
        return row

    def _write(self, columns: Mapping[str, object], error: Encoded | None) -> EncodedRow:
        written: dict[str, bytes] = {}
        nodes: dict[str, object] = {}
        for name, value in columns.items():
            empty = _EMPTY.get(type(value))
            if empty is not None and not value:
                written[name] = empty
                continue
            if name == "error" and error is not None:
                written[name], node = dumps(error[0]), error[1]
            else:
                written[name], node = self._column(name, value)
            if node is not None:
                nodes[name] = node
        types = pickled = None
        if nodes:
            if self._parts:
                nodes["parts"] = self._parts
            types = dumps({"v": VERSION, **nodes})
        if self._leaves and self._plan.fallback is not None:
            pickled = self._plan.fallback.pack(self._leaves, task_id=self._task_id)
        return EncodedRow(written, types, pickled)

    def _column(self, name: str, value: object) -> tuple[bytes, Node | None]:
        leaves = len(self._leaves)
        cyclic, budget = None, _BUDGET
        try:
            found = self._optimistic(value, budget)
        except OverBudgetError:
            del self._leaves[leaves:]
            cyclic, different = survey(value)
            found, budget = None, max(_BUDGET, different * _SHARING)
        except Exception:  # noqa: BLE001 - the careful walk finds out, and says where
            found = None
        if found is not None:
            return found
        del self._leaves[leaves:]
        try:
            return self._careful(name, value, budget, cyclic)
        except TangledError:
            del self._leaves[leaves:]
        cyclic, different = survey(value)
        return self._careful(name, value, max(_BUDGET, different * _SHARING), cyclic)

    def _optimistic(self, value: object, budget: int) -> tuple[bytes, Node | None] | None:
        """The column; None when its text may have a NUL."""
        encoder = self._encoder
        encoder.depth, encoder.budget = 0, budget
        plain, node = encoder.encode(value)
        data = dumps(plain)
        # most text has no backslash at all, and looking for one byte is faster than for six
        return None if b"\\" in data and _NUL in data else (data, node)

    def _careful(
        self, name: str, value: object, budget: int, cyclic: frozenset[int] | None
    ) -> tuple[bytes, Node | None]:
        leaves = len(self._leaves)
        encoder = CarefulEncoder(
            self._plan,
            self._task_id,
            name,
            leaves=self._leaves,
            first_part=len(self._parts),
            budget=budget,
            cyclic=cyclic,
        )
        try:
            try:
                plain, node = encoder.encode(value)
                parts = encoder.encode_parts()
            except OverBudgetError:
                del self._leaves[leaves:]
                if isinstance(value, BaseException):
                    plain, node = describe_exception(value)
                else:
                    plain, node = encoder.encode_whole(value)
                parts = []
            data = dumps(plain)
        except TangledError:
            raise
        except Exception as exc:
            del self._leaves[leaves:]
            if name == "error" and isinstance(value, BaseException):
                plain, node = describe_exception(value)
                return dumps(plain), node
            if isinstance(exc, ResultEncodeError):
                raise
            raise encoder.refusal(value, f"{type(exc).__name__}: {exc}") from exc
        self._parts += parts
        return data, node

    def _size(self, row: EncodedRow) -> int:
        return sum(map(len, row.columns.values())) + len(row.types or b"") + len(row.pickled or b"")

    def _check_size(self, row: EncodedRow) -> None:
        size = self._size(row)
        if size > self._plan.max_bytes:
            largest = max(row.columns, key=lambda name: len(row.columns[name]), default="")
            raise ResultEncodeError(
                f"task {self._task_id}: the row takes {size:,} bytes, most of them in {largest};"
                f" max_bytes={self._plan.max_bytes:,}. Store the data elsewhere and return where,"
                " or raise JsonSerializer(max_bytes=…)",
                task_id=self._task_id,
                path=largest,
                type_name="bytes",
            )
