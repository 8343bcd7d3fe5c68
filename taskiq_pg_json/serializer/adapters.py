"""Any serializer that a user may give: ours, or one of taskiq's (``dumpb`` and ``loadb``).

Through a taskiq serializer that writes JSON, what it writes stands in the JSON columns. What any
other one writes stands in the row's bytea, and a readable preview of it in the JSON columns. The
``error`` column holds errors as data whichever serializer is in use.
"""

from __future__ import annotations

import json
import warnings
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson
from pydantic import ConfigDict
from pydantic_core import SchemaSerializer, core_schema

from taskiq_pg_json.errors import ConfigurationError, ResultDecodeError, ResultEncodeError
from taskiq_pg_json.serializer.cycles import is_deeper
from taskiq_pg_json.serializer.exceptions.printable import (
    full_name,
    message_of,
    printable,
    short_repr,
)
from taskiq_pg_json.serializer.frames import pack, unpack, writer_of
from taskiq_pg_json.serializer.json_serializer import JsonSerializer
from taskiq_pg_json.serializer.probing import drops_fields, is_taskiqs, keeps_objects, writes_json
from taskiq_pg_json.serializer.protocol import EncodedRow, ResultSerializer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ERROR = "error"
_WRITER = "serializer"
_MAX_DEPTH = 1_000
"""Levels of nesting that a serializer of JSON is given: orjson 3.13 corrupts memory from twice
as many on, if they are tuples."""

_BY_ALIAS = None if "serialize_by_alias" in ConfigDict.__annotations__ else False
"""By field name, unless a model's own configuration says otherwise, as ``model_dump`` does."""
_JSONABLE = SchemaSerializer(core_schema.any_schema(), {"ser_json_inf_nan": "constants"})
_JSONABLE_BASE64 = SchemaSerializer(
    core_schema.any_schema(), {"ser_json_inf_nan": "constants", "ser_json_bytes": "base64"}
)


class DescribedValueWarning(UserWarning):
    """A serializer refused a value, and its repr or plain data were stored instead."""


class TaskiqSerializer(Protocol):
    """What taskiq's serializers have in common."""

    def dumpb(self, value: object, /) -> bytes:
        """Turn a value into bytes."""
        ...

    def loadb(self, value: bytes, /) -> object:
        """Turn bytes into the value again."""
        ...


def as_result_serializer(serializer: object | None) -> ResultSerializer:
    """The ``serializer=`` of a store or backend as a ``ResultSerializer``.

    Args:
        serializer: None for ``JsonSerializer()``, a ``ResultSerializer``, or a taskiq serializer
            such as ``ORJSONSerializer()``.

    Raises:
        ConfigurationError: it is none of these, has a method that is async, or a name that the
            rows cannot have.
    """
    if serializer is None:
        return JsonSerializer()
    if isinstance(serializer, type):
        name = serializer.__qualname__
        raise ConfigurationError(f"serializer={name} is a class: give an instance, {name}().")
    if isinstance(serializer, ResultSerializer):
        _check_not_async(serializer, "encode", "decode")
        _check_name(serializer)
        return serializer
    if callable(getattr(serializer, "dumpb", None)) and callable(
        getattr(serializer, "loadb", None)
    ):
        _check_not_async(serializer, "dumpb", "loadb")
        return TaskiqSerializerAdapter(cast("TaskiqSerializer", serializer))
    raise ConfigurationError(
        f"serializer={short_repr(serializer)} cannot serialize results: give None for JSON, a"
        " JsonSerializer(), an object with encode() and decode() (ResultSerializer), or one of"
        " taskiq's serializers, which have dumpb() and loadb()."
    )


def _check_not_async(serializer: object, *methods: str) -> None:
    for method in methods:
        if iscoroutinefunction(getattr(serializer, method)):
            raise ConfigurationError(
                f"serializer={short_repr(serializer)}: its {method}() is async, and nobody would"
                " wait for it: make it one that is not."
            )


def _check_name(serializer: ResultSerializer) -> None:
    name: object = serializer.name
    if not isinstance(name, str) or printable(name) != name:
        raise ConfigurationError(
            f"serializer={short_repr(serializer)}: its name is {short_repr(name)}: give it one of"
            " text, without NUL or surrogates, as each row keeps it."
        )


class TaskiqSerializerAdapter:
    """A taskiq serializer as a ``ResultSerializer``.

    One of taskiq's that writes JSON is given JSON-able data (dataclasses and models as dicts, dates
    as text), as taskiq itself makes them: it would leave out fields, and write those that a model
    hides. Any other one is given the value, and once more as JSON-able data where it refuses it;
    from one that keeps objects, as a pickle does, that is a DescribedValueWarning.

    Attributes:
        name: as in ``taskiq:ORJSONSerializer``.
    """

    def __init__(self, serializer: TaskiqSerializer) -> None:
        self.name = f"taskiq:{type(serializer).__name__}"
        self._serializer = serializer
        self._writes_json = writes_json(serializer)
        self._keeps_objects = keeps_objects(serializer)
        self._dumps = [self._checked_dump, self._dump_jsonable]
        if self._writes_json and (is_taskiqs(serializer) or drops_fields(serializer)):
            self._dumps = [self._dump_jsonable, self._dump_shallow]
        self._json = JsonSerializer(fallback=None)

    def encode(self, columns: Mapping[str, object], *, task_id: str) -> EncodedRow:
        """Encode one row's values; see :class:`ResultSerializer`."""
        values: dict[str, object] = {}
        previews: dict[str, bytes] = {}
        frames: list[bytes] = []
        marks: dict[str, object] = {}
        for column, value in columns.items():
            if value is None or column == _ERROR:
                values[column] = value
                continue
            data = self._dump(value, column, task_id)
            try:
                values[column] = self._parse(data)
            except (ValueError, RecursionError):
                marks[column] = {"pickle": len(frames)}
                frames.append(data)
                previews[column] = self._preview(value, task_id)
        row = self._json.encode(values, task_id=task_id)
        if row.types is None and not frames:
            return row
        types = {"v": 1} if row.types is None else orjson.loads(row.types)
        written = {**row.columns, **previews}
        return EncodedRow(
            columns={column: written[column] for column in columns},
            types=orjson.dumps({**types, **marks, _WRITER: self.name}),
            pickled=pack(self.name, frames) if frames else None,
        )

    def decode(self, row: EncodedRow, *, task_id: str) -> dict[str, object]:
        """Decode the columns given; see :class:`ResultSerializer`."""
        types = _read_types(row, task_id)
        writer = types.pop(_WRITER, None)
        framed = {} if writer is None else _marks(types, row.columns)
        plain = EncodedRow(
            columns={column: text for column, text in row.columns.items() if column not in framed},
            types=orjson.dumps(types) if types.keys() - {"v"} else None,
            pickled=row.pickled if writer is None else None,
        )
        values = self._json.decode(plain, task_id=task_id)
        if self._writes_json and (writer == self.name or row.types is None):
            for column, value in values.items():
                if value is not None and column != _ERROR:
                    values[column] = self._reload(value, column, task_id)
        if framed:
            values |= self._load_frames(framed, row, task_id)
        return {column: values[column] for column in row.columns}

    def _dump(self, value: object, column: str, task_id: str) -> bytes:
        refusals: list[Exception] = []
        for dump in self._dumps:
            try:
                data = dump(value)
                if refusals and self._keeps_objects:
                    self._warn_of_plain(value, refusals[0])
            except Exception as exc:  # noqa: BLE001 - a serializer of the user's own choice
                refusals.append(exc)
                continue
            return data
        raise ResultEncodeError(
            f"{self.name} cannot write the {column} of task {task_id!r}"
            f" ({'; '.join(map(message_of, refusals))}); JsonSerializer() may",
            task_id=task_id,
            path=column,
            type_name=full_name(type(value)),
        ) from refusals[-1]

    def _dump_jsonable(self, value: object) -> bytes:
        return self._dump_described(_to_jsonable(value, self._written_alone))

    def _written_alone(self, leaf: object) -> object:
        """What the serializer itself makes of an object that nobody else knows."""
        try:
            return self._parse(self._serializer.dumpb(leaf))
        except Exception:  # noqa: BLE001 - likewise
            return self._describe(leaf)

    def _dump_described(self, value: object) -> bytes:
        """JSON-able data, described where it is refused as well, such as a long int."""
        try:
            return self._checked_dump(value)
        except Exception:  # noqa: BLE001 - likewise
            return self._checked_dump(self._described(value))

    def _described(self, value: object) -> object:
        if isinstance(value, dict):
            return {self._described(key): self._described(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(map(self._described, value))
        try:
            self._checked_dump(value)
        except Exception:  # noqa: BLE001 - likewise
            return self._describe(value)
        return value

    def _checked_dump(self, value: object) -> bytes:
        """What the serializer makes of the value and can read: MessagePack writes odd keys."""
        data = bytes(self._serializer.dumpb(value))
        if not self._writes_json:
            self._serializer.loadb(data)
        return data

    def _dump_shallow(self, value: object) -> bytes:
        if is_deeper(value, _MAX_DEPTH):
            raise ValueError(f"it is nested more than {_MAX_DEPTH:,} levels deep")
        return self._checked_dump(value)

    def _describe(self, leaf: object) -> str:
        warnings.warn(
            f"{self.name} cannot hold a {full_name(type(leaf))}: its repr is stored instead."
            " JsonSerializer() keeps such values as they are.",
            DescribedValueWarning,
            stacklevel=2,
        )
        return short_repr(leaf)

    def _warn_of_plain(self, value: object, refusal: Exception) -> None:
        warnings.warn(
            f"{self.name} cannot hold a {full_name(type(value))} ({message_of(refusal)}):"
            " plain data are stored instead."
            " JsonSerializer() keeps most of such values as they are.",
            DescribedValueWarning,
            stacklevel=2,
        )

    def _parse(self, data: bytes) -> object:
        """The JSON that the serializer wrote.

        Raises:
            ValueError: it is not JSON.
        """
        if not self._writes_json:
            raise ValueError(f"{self.name} writes no JSON")
        parsed: object = json.loads(data)
        return parsed

    def _preview(self, value: object, task_id: str) -> bytes:
        """JSON to read and to search; what is read back is in the bytea."""
        try:
            preview = _to_jsonable(value, short_repr)
            return self._json.encode({"preview": preview}, task_id=task_id).columns["preview"]
        except Exception:  # noqa: BLE001 - no preview is worth the value that it shows
            return orjson.dumps(short_repr(value))

    def _reload(self, value: object, column: str, task_id: str) -> object:
        try:
            return self._serializer.loadb(json.dumps(value).encode())
        except Exception as exc:
            raise _unreadable(self.name, column, task_id, exc, value) from exc

    def _load_frames(
        self, framed: Mapping[str, object], row: EncodedRow, task_id: str
    ) -> dict[str, object]:
        data = row.pickled or b""
        writer = writer_of(data)
        values: dict[str, object] = {}
        for column, number in framed.items():
            plain = row.columns[column].decode("utf-8", "replace")
            if writer not in {self.name, None}:
                raise ResultDecodeError(
                    f"the {column} of task {task_id!r} was written by {writer}: read it with that"
                    f" serializer instead of {self.name}; a readable copy is in 'plain'",
                    task_id=task_id,
                    path=column,
                    type_name=str(writer),
                    plain=plain,
                )
            try:
                values[column] = self._serializer.loadb(unpack(data)[cast("int", number)])
            except Exception as exc:
                raise _unreadable(self.name, column, task_id, exc, plain) from exc
        return values


def _to_jsonable(value: object, fallback: Callable[[object], object]) -> object:
    """As taskiq makes results JSON-able; bytes that are no text become Base64, with all others."""
    options: dict[str, Any] = {"mode": "json", "fallback": fallback, "by_alias": _BY_ALIAS}
    try:
        return _JSONABLE.to_python(value, **options)
    except UnicodeDecodeError:
        return _JSONABLE_BASE64.to_python(value, **options)


def _read_types(row: EncodedRow, task_id: str) -> dict[str, object]:
    if row.types is None:
        return {}
    try:
        types: object = orjson.loads(row.types)
    except ValueError as exc:
        raise _unreadable("the sidecar", "types", task_id, exc, None) from exc
    if not isinstance(types, dict):
        raise _unreadable("the sidecar", "types", task_id, TypeError("it is no object"), types)
    return types


def _marks(types: dict[str, object], columns: Iterable[str]) -> dict[str, object]:
    """The number of the frame by column; those columns are taken out of ``types``."""
    nodes = {column: types.get(column) for column in columns}
    found = {
        column: node["pickle"]
        for column, node in nodes.items()
        if isinstance(node, dict) and isinstance(node.get("pickle"), int)
    }
    for column in found:
        del types[column]
    return found


def _unreadable(
    reader: str, column: str, task_id: str, exc: Exception, plain: object
) -> ResultDecodeError:
    return ResultDecodeError(
        f"{reader} cannot be read for the {column} of task {task_id!r}: {message_of(exc)}",
        task_id=task_id,
        path=column,
        type_name=reader,
        plain=plain,
    )
