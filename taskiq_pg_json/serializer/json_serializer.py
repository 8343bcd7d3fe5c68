"""``JsonSerializer``: rows of clean JSON with a sidecar of types."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.serializer.lookup import Lookup
from taskiq_pg_json.serializer.pickling import PickleFallback
from taskiq_pg_json.serializer.plainrows import read_plain, write_plain
from taskiq_pg_json.serializer.plan import Plan
from taskiq_pg_json.serializer.reading import RowReader
from taskiq_pg_json.serializer.registry import TypeRegistry
from taskiq_pg_json.serializer.writing import RowWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskiq_pg_json.serializer.protocol import EncodedRow

_DEFAULT_FALLBACK = PickleFallback()
"""Leaves are pickled, unsigned, unless a serializer says otherwise."""


class JsonSerializer:
    """Stores a row as plain JSON, and the types that JSON does not have beside it.

    Args:
        registry: the application's own classes and codecs.
        fallback: pickles what no rule covers; None refuses it, and never reads a pickle.
        preserve_order: keep the insertion order of dicts, which jsonb does not.
        strict: resolve stored class names from ``registry`` and ``allow`` alone.
        allow: patterns of modules or classes that may be resolved, and imported, by name:
            ``["shop.*"]``.
        on_unknown_type: ``"plain"`` returns the JSON of a type that cannot be resolved, and warns
            once; ``"error"`` raises.
        secrets: ``"refuse"`` pydantic's secrets, or ``"store"`` them readably.
        max_bytes: the bytes that one row may take: its JSON, its sidecar and its pickles.

    Raises:
        ConfigurationError: an argument is none of its choices.
    """

    name = "json"

    def __init__(
        self,
        registry: TypeRegistry | None = None,
        *,
        fallback: PickleFallback | None = _DEFAULT_FALLBACK,
        preserve_order: bool = True,
        strict: bool = False,
        allow: Sequence[str] = (),
        on_unknown_type: Literal["plain", "error"] = "plain",
        secrets: Literal["refuse", "store"] = "refuse",
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        _check_choice("on_unknown_type", on_unknown_type, ("plain", "error"))
        _check_choice("secrets", secrets, ("refuse", "store"))
        if not isinstance(registry, TypeRegistry | None):
            raise ConfigurationError(f"registry={registry!r}: give a TypeRegistry().")
        if not isinstance(fallback, PickleFallback | None):
            raise ConfigurationError(  # which shows nothing of what may be its key
                f"fallback= is of type {type(fallback).__name__}: give PickleFallback() or None."
            )
        if isinstance(allow, str):
            raise ConfigurationError(f"allow={allow!r} is one text: give a list, [{allow!r}].")
        if not isinstance(allow, Collection) or not all(isinstance(each, str) for each in allow):
            raise ConfigurationError(f"allow={allow!r}: give a list of patterns of names, as text.")
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigurationError(f"max_bytes={max_bytes!r}: give a number of bytes.")
        self.registry = TypeRegistry() if registry is None else registry
        self.fallback = fallback
        self.max_bytes = max_bytes
        self._preserve_order = preserve_order
        self._store_secrets = secrets == "store"
        self._lookup = Lookup(
            self.registry, allow, strict=strict, refuse_unknown=on_unknown_type == "error"
        )
        self._make_plan()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def _make_plan(self) -> None:
        self._version = self.registry.version  # first: a class may be registered meanwhile
        self._plan = Plan(
            self.registry,
            self.fallback,
            preserve_order=self._preserve_order,
            store_secrets=self._store_secrets,
            max_bytes=self.max_bytes,
        )
        self._lookup.forget()

    def encode(self, columns: Mapping[str, object], *, task_id: str) -> EncodedRow:
        """Encode one row's values.

        Raises:
            ResultEncodeError: a value that cannot be stored, with its path and type; never for
                the ``error`` column.
        """
        if self._version != self.registry.version:
            self._make_plan()
        row = write_plain(self._plan, columns)
        return RowWriter(self._plan, task_id).write(columns) if row is None else row

    def decode(self, row: EncodedRow, *, task_id: str) -> dict[str, Any]:
        """Decode the columns given, which may be some of those that were encoded together.

        Raises:
            ResultDecodeError: and nothing else, whatever stands in the row.
        """
        if self._version != self.registry.version:
            self._make_plan()
        values = read_plain(row)
        if values is not None:
            return values
        return RowReader(self._lookup, self.fallback, row, task_id).read()


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r}: it is one of {', '.join(choices)}.")
