"""numpy and pandas, where an application uses them: nothing is imported here.

A numpy array is nested lists under ``ndarray:<dtype>:<shape>``, a numpy scalar its Python value
under ``numpy:<dtype>``. A pandas Timestamp, Timedelta or NaT is its ISO text, with the unit and
zone in the type's name. What these cannot say exactly, such as object arrays, is pickled.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer import times
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.nodes import wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

    Handler = Callable[[Encoder, Any], Encoded]

_TEMPORAL = "Mm"
_EXACT = "biufcUS"
_ITEMS = {bool, int, float, complex, str, bytes}
_TEXT = {"U": str, "S": bytes}
_ROOM = 1 << 20
_ROOM_FOR_EACH = 64
"""Bytes that an array of text may take: so many, and these for each item and each character."""

_WIDEST = {"f": 8, "c": 16}


def handler(cls: type) -> Handler | None:
    """How a class of an optional package is encoded; None for any other."""
    package = cls.__module__.partition(".")[0]
    module: Any = sys.modules.get(package)
    if package == "numpy":
        if cls is module.ndarray:
            return _encode_array
        return _encode_number if issubclass(cls, module.generic) else None
    if package == "pandas":
        if cls is module.Timestamp:
            return _encode_timestamp
        if cls is module.Timedelta:
            return _encode_timedelta
        if cls is type(module.NaT):
            return lambda _encoder, _value: ("NaT", "pandas:NaT")
    return None


def _is_exact(dtype: Any) -> bool:  # noqa: ANN401 - a numpy dtype
    kind = dtype.kind
    return kind in _TEMPORAL or (
        kind in _EXACT and dtype.itemsize <= _WIDEST.get(kind, dtype.itemsize)
    )


def _items(array: Any) -> Any:  # noqa: ANN401 - a numpy array
    """Nested lists of Python values, dates as numpy writes them, durations as ints.

    None for what would not come back the same.
    """
    if not _is_exact(array.dtype):
        return None
    if array.dtype.kind == "M":
        return _dates(array)
    items = (array.astype("i8") if array.dtype.kind == "m" else array).tolist()
    return None if _is_wide(array.dtype, items) else items


def _dates(array: Any) -> Any:  # noqa: ANN401 - a numpy array
    """Nested lists of ISO text, if numpy reads the same from it: it rounds some, far away."""
    numpy: Any = sys.modules["numpy"]
    try:
        items = numpy.datetime_as_string(array).tolist()
        read = numpy.array(items, dtype=array.dtype)
    except Exception:  # noqa: BLE001 - numpy's own, and the value is pickled
        return None
    return items if read.tobytes() == array.tobytes() else None


def _encode_array(encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a numpy array
    items = _items(value)
    if items is None:
        return encode_unknown(encoder, value)
    plain, node = encoder.encode(items)
    shape = ",".join(map(str, value.shape))
    return wrap(f"ndarray:{value.dtype.str}:{shape}", plain, node)


def _encode_number(encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a numpy scalar
    if value.dtype.kind == "U":
        item: object = str.__str__(value)
    elif value.dtype.kind == "S":
        item = bytes.__getitem__(value, slice(None))
    else:
        item = _items(sys.modules["numpy"].asarray(value))
    if item is None:
        return encode_unknown(encoder, value)
    plain, node = encoder.encode(item)
    return wrap(f"numpy:{value.dtype.str}", plain, node)


def _is_wide(dtype: Any, items: object) -> bool:  # noqa: ANN401 - a numpy dtype
    """Whether an array of text would take far more memory than its items do."""
    if dtype.kind not in _TEXT:
        return False
    lengths = list(map(len, _texts(items, _TEXT[dtype.kind])))
    size: int = len(lengths) * dtype.itemsize
    return size > _ROOM + _ROOM_FOR_EACH * (sum(lengths) + len(lengths))


def _texts(items: object, cls: type) -> Iterator[str | bytes]:
    """The text in nested lists.

    Raises:
        TypeError: they hold something else, which numpy would write out at the full width.
    """
    if isinstance(items, list):
        for item in items:
            yield from _texts(item, cls)
    elif isinstance(items, (str, bytes)) and type(items) is cls:
        yield items
    else:
        raise TypeError(f"expected {cls.__name__}, found {type(items).__name__}")


def _inner(decoder: Decoder, plain: object, node: Node) -> Any:  # noqa: ANN401 - its reader knows
    """What an array is made of: values that numpy asks nothing of, as those of JSON are."""
    items = decoder.inner(plain, node)
    if type(node) is dict:
        _check_items(items)
    return items


def _check_items(items: object) -> None:
    kinds = set(map(type, items)) if type(items) is list else {type(items)}
    if type(items) is list and list in kinds:
        for item in items:
            _check_items(item)
    elif not kinds <= _ITEMS:
        raise TypeError(f"expected numbers or text, found {kinds - _ITEMS}")


def _array(numpy: Any, items: Any, dtype: str, shape: tuple[int, ...]) -> Any:  # noqa: ANN401
    kind = numpy.dtype(dtype)
    if not _is_exact(kind) or _is_wide(kind, items):
        raise ValueError(f"{dtype!r} is no dtype of a stored array")
    made = numpy.array(items, dtype="i8" if kind.kind == "m" else kind)
    return made.astype(kind).reshape(shape)


def _read_array(decoder: Decoder, plain: object, argument: str, node: Node) -> object:
    numpy = decoder.lookup.module("numpy")
    if numpy is None:
        return decoder.unresolved(f"ndarray:{argument}", plain)
    dtype, _, sizes = argument.rpartition(":")
    shape = tuple(map(int, sizes.split(","))) if sizes else ()
    return _array(numpy, _inner(decoder, plain, node), dtype, shape)


def _read_number(decoder: Decoder, plain: object, argument: str, node: Node) -> object:
    numpy = decoder.lookup.module("numpy")
    if numpy is None:
        return decoder.unresolved(f"numpy:{argument}", plain)
    item = _inner(decoder, plain, node)
    dtype = numpy.dtype(argument)
    if dtype.kind in _TEXT:
        # an array would cut off its NULs
        if type(item) is not _TEXT[dtype.kind]:
            raise TypeError(f"expected the item of {argument}, found {type(item).__name__}")
        return dtype.type(item)
    return _array(numpy, item, argument, ())[()]


def _encode_timestamp(encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a Timestamp
    zone = times.zone_name(value.tzinfo)
    try:
        plain: str = value.isoformat()
        argument = f"{value.unit}:{value.fold}:{zone}"
        found = None if zone is None else _timestamp(sys.modules["pandas"], plain, argument)
        if found is not None and _moment(found) == _moment(value):
            return plain, f"pandas:Timestamp:{argument}"
    except Exception:  # noqa: BLE001, S110 - pandas's own, and the value is pickled
        pass
    return encode_unknown(encoder, value)


def _moment(value: Any) -> tuple[object, ...]:  # noqa: ANN401 - a Timestamp
    """What has to be the same of two Timestamps."""
    zone = value.tzinfo
    return value.asm8, value.unit, value.fold, type(zone), str(zone), value.utcoffset()


def _encode_timedelta(encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a Timedelta
    try:
        plain: str = value.isoformat()
        found = _timedelta(sys.modules["pandas"], plain, value.unit)
        if (found.asm8, found.unit) == (value.asm8, value.unit):
            return plain, f"pandas:Timedelta:{value.unit}"
    except Exception:  # noqa: BLE001, S110 - pandas's own, and the value is pickled
        pass
    return encode_unknown(encoder, value)


def _timestamp(pandas: Any, plain: str, argument: str) -> Any:  # noqa: ANN401
    unit, fold, zone = argument.split(":", 2)
    written = pandas.Timestamp(plain)
    if zone:
        written = written.tz_convert(times.decode_zone(zone, written.tzinfo))
    return written.replace(fold=int(fold)).as_unit(unit)


def _timedelta(pandas: Any, plain: str, unit: str) -> Any:  # noqa: ANN401
    return pandas.Timedelta(plain).as_unit(unit)


def _read_pandas(decoder: Decoder, plain: object, argument: str, _node: Node) -> object:
    pandas: Any = decoder.lookup.module("pandas")
    if pandas is None:
        return decoder.unresolved(f"pandas:{argument}", plain)
    what, _, rest = argument.partition(":")
    if what == "NaT":
        return pandas.NaT
    if type(plain) is not str:
        raise TypeError(f"expected text, found {type(plain).__name__}")
    return (_timedelta if what == "Timedelta" else _timestamp)(pandas, plain, rest)


READERS: dict[str, Callable[[Decoder, Any, str, Node], object]] = {
    "ndarray": _read_array,
    "numpy": _read_number,
    "pandas": _read_pandas,
}
