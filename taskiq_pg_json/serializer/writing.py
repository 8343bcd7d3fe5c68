"""Writing one row: its columns, its sidecar, its pickled leaves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer.careful import CarefulEncoder, TangledError
from taskiq_pg_json.serializer.cycles import survey
from taskiq_pg_json.serializer.encoder import Encoder, OverBudgetError
from taskiq_pg_json.serializer.exceptions import (
    INTERRUPTS,
    describe_exception,
    outline_exception,
)
from taskiq_pg_json.serializer.exceptions.printable import NO_REFUSALS, message_of
from taskiq_pg_json.serializer.jsontext import EMPTY, NUL, dumps, has_nul
from taskiq_pg_json.serializer.nodes import VERSION
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.serializer.raised import encode_exception

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taskiq_pg_json.serializer.plan import Plan
    from taskiq_pg_json.serializer.protocol import Encoded, Node

_BUDGET = 100_000
"""Containers that a column may have before it is looked at for what it shares."""
_SHARING = 4
"""How often a container may be met on average; beyond, the column is pickled as a whole."""


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
        self._largest = self._size = ""

    def write(self, columns: Mapping[str, object]) -> EncodedRow:
        """The row of these columns; an error too large for it is cut short.

        Raises:
            ResultEncodeError: a column other than ``error`` cannot be stored.
        """
        row = self._write(columns, None)
        error = columns.get("error")
        if row is None and isinstance(error, BaseException):
            for brief in self._briefly(error):
                self._start()
                row = self._write(columns, brief)
                if row is not None:
                    break
        if row is None:
            raise self._too_large()
        return row

    def _write(
        self, columns: Mapping[str, object], error: tuple[bytes, Node] | None
    ) -> EncodedRow | None:
        """The row; None when it is too large, and then ``_largest`` is why."""
        written: dict[str, bytes] = {}
        nodes: dict[str, object] = {}
        for name, value in columns.items():
            if name == "error" and isinstance(value, BaseException):
                data, node = error or self._error(value)
            else:
                try:
                    empty = EMPTY.get(type(value))
                except Exception:  # noqa: BLE001 - a class without a hash, as the walk finds out
                    empty = None
                if empty is not None and not value:
                    written[name] = empty
                    continue
                data, node = self._column(name, value)
            if data is None:
                self._largest, self._size = name, f"more than {self._plan.max_bytes:,}"
                return None
            written[name] = data
            if node is not None:
                nodes[name] = node
        types = pickled = None
        if nodes:
            types = self._sidecar(nodes)
        if self._leaves and self._plan.fallback is not None:
            pickled = self._plan.fallback.pack(self._leaves, task_id=self._task_id)
        row = EncodedRow(written, types, pickled)
        if row.size <= self._plan.max_bytes:
            return row
        parts = {**written, "types": types or b"", "pickled": pickled or b""}
        self._largest = max(parts, key=lambda name: len(parts[name]))
        self._size = f"{row.size:,}"
        return None

    def _sidecar(self, nodes: Mapping[str, object]) -> bytes:
        if self._parts:
            return dumps({"v": VERSION, **nodes, "parts": self._parts})
        return dumps({"v": VERSION, **nodes})

    def _error(self, exc: BaseException) -> tuple[bytes | None, Node | None]:
        """The same of an error: described in brief, should anything go wrong with it."""
        leaves, parts = len(self._leaves), len(self._parts)
        try:
            data, node = self._column("error", exc)
            if data is None or _is_storable(data, node, self._parts[parts:]):
                return data, node
        except INTERRUPTS:
            raise
        except BaseException:  # noqa: BLE001, S110 - an error gets stored, whatever it is made of
            pass
        del self._leaves[leaves:]
        del self._parts[parts:]
        return next(self._briefly(exc))

    def _column(self, name: str, value: object) -> tuple[bytes | None, Node | None]:
        """The text of a column, and its node; None for text that would be too much to write."""
        cyclic, budget = None, _BUDGET
        leaves, room = len(self._leaves), self._encoder.room
        found = None
        try:
            found = self._optimistic(name, value, budget)
        except OverBudgetError:
            cyclic, budget = _surveyed(value)
            if not cyclic:
                self._begin_again(leaves, room)
                with suppress(OverBudgetError):
                    found = self._optimistic(name, value, budget)
        if found is not None:
            return found
        self._begin_again(leaves, room)
        try:
            return self._careful(name, value, budget, cyclic)
        except TangledError:
            self._begin_again(leaves, room)
        cyclic, budget = _surveyed(value)
        return self._careful(name, value, budget, cyclic)

    def _optimistic(
        self, name: str, value: object, budget: int
    ) -> tuple[bytes | None, Node | None] | None:
        """The same, if no value needs care; None where the careful walk finds out, and says where.

        Raises:
            OverBudgetError: it has, or shares, more containers.
        """
        encoder = self._encoder
        encoder.depth, encoder.budget = 0, budget
        try:
            plain, node = _encoded(encoder, name, value)
            if encoder.room < 0:
                return None, node
            data = dumps(plain)
            # most text has no backslash at all, and looking for one byte is faster than for six
            if b"\\" not in data or NUL not in data or _is_storable(data, node, ()):
                return data, node
        except (OverBudgetError, *NO_REFUSALS):
            raise
        except BaseException:  # noqa: BLE001, S110 - the careful walk finds out, and says where
            pass
        return None

    def _begin_again(self, leaves: int, room: int) -> None:
        """Forget what an attempt at a column has pickled, and counted."""
        del self._leaves[leaves:]
        self._encoder.room = room

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
                plain, node = _encoded(encoder, name, value)
                parts = encoder.encode_parts()
            except OverBudgetError:
                del self._leaves[leaves:]
                if isinstance(value, BaseException):
                    plain, node = describe_exception(value, self._plan.registry.name_of)
                else:
                    plain, node = encoder.encode_whole(value)
                parts = []
            data = dumps(plain)
        except (TangledError, *NO_REFUSALS):
            raise
        except BaseException as exc:
            del self._leaves[leaves:]
            if isinstance(exc, ResultEncodeError):
                raise
            raise encoder.refusal(value, f"{type(exc).__name__}: {message_of(exc)}") from exc
        self._parts += parts
        return data, node

    def _briefly(self, exc: BaseException) -> Iterator[tuple[bytes, Node]]:
        """The text of an error and its node, in ever fewer words that can be stored."""
        for shorten in (describe_exception, outline_exception):
            try:
                plain, node = shorten(exc, self._plan.registry.name_of)
                data = dumps(plain)
                storable = _is_storable(data, node, ())
            except INTERRUPTS:
                raise
            except BaseException:  # noqa: BLE001, S112 - the outline is text of our own alone
                continue
            if storable:
                yield data, node

    def _too_large(self) -> ResultEncodeError:
        return ResultEncodeError(
            f"task {self._task_id}: the row takes {self._size} bytes, most of them in"
            f" {self._largest}; max_bytes={self._plan.max_bytes:,}. Store the data elsewhere and"
            " return where, or raise JsonSerializer(max_bytes=…)",
            task_id=self._task_id,
            path=self._largest,
            type_name="bytes",
        )


def _surveyed(value: object) -> tuple[frozenset[int], int]:
    """Where the cycles of a value close, and the budget that it gets."""
    cyclic, different = survey(value)
    return cyclic, max(_BUDGET, different * _SHARING)


def _encoded(encoder: Encoder, name: str, value: object) -> Encoded:
    """A column encoded; an error is stored as one, should its class have a codec too."""
    if name == "error" and isinstance(value, BaseException):
        return encode_exception(encoder, value)
    return encoder.encode(value)


def _is_storable(data: bytes, node: Node | None, parts: Sequence[Encoded]) -> bool:
    """Whether jsonb holds the text and its sidecar; raises for what no JSON can say."""
    return not (has_nul(data) or has_nul(dumps([node, parts])))
