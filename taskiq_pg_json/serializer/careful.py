"""The walk that looks at everything: for values that the optimistic one could not settle.

It knows the path of the value in hand, so it is the one that refuses and warns; it escapes what
jsonb cannot hold; it cuts deep nesting into parts of bounded depth; and it pickles the object at
which a cycle closes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer import keys as dict_keys
from taskiq_pg_json.serializer.encoder import (
    MAX_DEPTH,
    Encoder,
    OptimismFailedError,
    OverBudgetError,
)
from taskiq_pg_json.serializer.exceptions.printable import full_name
from taskiq_pg_json.serializer.leaves import (
    IncompleteValueWarning,
    PickledValueWarning,
    encode_unknown,
)
from taskiq_pg_json.serializer.nodes import merge
from taskiq_pg_json.serializer.plan import BUILTINS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from taskiq_pg_json.serializer.encoder import Column
    from taskiq_pg_json.serializer.plan import Plan
    from taskiq_pg_json.serializer.protocol import Encoded, Node

MAX_HASHED = 8_000
"""Levels of nesting in what is hashed: the reader must hash it too, on whatever stack it has."""

_SCALAR = (str, int, float, type(None))
_SETS = (set, frozenset)


class TangledError(OptimismFailedError):
    """The value is nested deeply or shares much: its cycles have to be known first."""


class CarefulEncoder(Encoder):
    """Encodes one column with an eye on everything.

    Args:
        plan: the encoding side of the serializer.
        task_id: the row's task.
        column: the name of the column.
        leaves: the row's pickled leaves so far.
        first_part: the number that the column's first part gets.
        budget: containers that may be visited.
        cyclic: ids of the objects at which cycles close; None while they are not known.
    """

    settled: ClassVar[frozenset[type]] = frozenset({bool, type(None)})

    def __init__(
        self,
        plan: Plan,
        task_id: str,
        column: str,
        *,
        leaves: list[bytes],
        first_part: int,
        budget: int,
        cyclic: frozenset[int] | None = None,
    ) -> None:
        super().__init__(plan, task_id)
        self.layouts = {}
        self.leaves = leaves
        self.budget = budget
        self.path = [column]
        self._first_part = first_part
        self._cyclic = cyclic
        self._cut: list[tuple[object, list[str], int | None]] = []
        self._hashed_at: int | None = None  # the depth, in this part, from which all is hashed

    def encode_parts(self) -> list[Encoded]:
        """The parts that nesting was cut into, which may be cut in turn."""
        parts: list[Encoded] = []
        while len(parts) < len(self._cut):
            value, self.path, self._hashed_at = self._cut[len(parts)]
            self.depth = 0
            encode = super().encode
            parts.append(self._hashing(encode, value) if type(value) in _SETS else encode(value))
        return parts

    def encode(self, value: object) -> Encoded:
        """Any value."""
        if self._cyclic is not None:
            if id(value) in self._cyclic and not isinstance(value, BaseException):
                return encode_unknown(self, value)
            if self.depth >= MAX_DEPTH and not isinstance(value, _SCALAR):
                hashed_at = self._hashed_at
                if hashed_at is not None:
                    levels = self.depth - hashed_at
                    if levels > MAX_HASHED:
                        raise self.refusal(
                            value, f"{levels:,} levels deep in a set or a dict's key"
                        )
                    hashed_at = -levels
                self._cut.append((value, list(self.path), hashed_at))
                return "…", f"part:{self._first_part + len(self._cut) - 1}"
        if type(value) in _SETS:
            return self._hashing(super().encode, value)
        return super().encode(value)

    def encode_key(self, key: object) -> Encoded:
        """One key of a dict."""
        return self._hashing(super().encode_key, key)

    def _hashing(self, encode: Callable[[object], Encoded], value: object) -> Encoded:
        if self._hashed_at is not None:
            return encode(value)
        self._hashed_at = self.depth
        try:
            return encode(value)
        finally:
            self._hashed_at = None

    def encode_whole(self, value: object) -> Encoded:
        """A column with too many containers: pickled, where each is stored once."""
        self.path = self.path[:1]
        return encode_unknown(self, value)

    def encode_at(self, value: object, path: str) -> Encoded:
        """A value inside an exception, which knows where."""
        above = len(self.path)
        self.path.append(path)
        try:
            return self.encode(value)
        finally:
            del self.path[above:]

    def _encode_child(self, value: object, step: str) -> Encoded:
        # left as it is by an exception: then the path tells where it happened
        self.path.append(step)
        encoded = self.encode(value)
        self.path.pop()
        return encoded

    def enter(self, rows: int = 1) -> None:
        """Go one level down, as far as the budget lasts."""
        self.depth += 1
        self.budget -= rows
        if self._cyclic is None and (self.depth > MAX_DEPTH or self.budget < 0):
            raise TangledError
        if self.budget < 0:
            raise OverBudgetError

    def layout(self, names: tuple[object, ...]) -> dict[str, object] | None:
        """What a node says of a dict's keys, each of them looked at."""
        return dict_keys.layout(names, preserve_order=self.plan.preserve_order)

    def children(self, value: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        """The values of a dict, one by one."""
        plain: dict[str, object] = {}
        fields: dict[str, Node] = {}
        for name, child in value.items():
            plain[name], node = self._encode_child(child, f".{name}")
            if node is not None:
                fields[name] = node
        return plain, {"fields": fields} if fields else {}

    def column(self, values: Collection[object]) -> Column:
        """The items of a list, one by one."""
        encoded = [self._encode_child(value, f"[{i}]") for i, value in enumerate(values)]
        plains = [plain for plain, _ in encoded]
        return (plains, *merge(plains, [node for _, node in encoded]))

    def refusal(self, value: object, reason: str) -> ResultEncodeError:
        """The error that says where a value cannot be stored, and why."""
        path, name = "".join(self.path), full_name(type(value))
        return ResultEncodeError(
            f"task {self.task_id}: {path} ({name}) cannot be stored: {reason}",
            task_id=self.task_id,
            path=path,
            type_name=name,
        )

    def accept_failure(self) -> None:
        """Nothing: this was with care."""

    def prepare_to_warn(self) -> None:
        """Nothing: the path is known."""

    def warn_of_pickle(self, value: object) -> None:
        """Tell the first time that a type has to be pickled."""
        cls = type(value)
        way_out = (
            "it holds what JSON has no name for, such as a time zone of a class of its own"
            if cls in BUILTINS
            else "TypeRegistry.register(cls, name=…, encode=…, decode=…) teaches"
            " JsonSerializer(registry) to store it as JSON"
        )
        warnings.warn(
            f"{''.join(self.path)}: a {full_name(cls)} was pickled, and is no more"
            f" than text in SQL; {way_out}",
            PickledValueWarning,
            stacklevel=2,
        )

    def warn_of_loss(self, value: object, part: str) -> None:
        """Tell that a value is stored without a part of it."""
        warnings.warn(
            f"{''.join(self.path)}: a {type(value).__qualname__} was stored without {part}",
            IncompleteValueWarning,
            stacklevel=2,
        )
