"""The pickle fallback: leaves that JSON cannot hold, each pickled alone, in one bytea a row.

The bytes are a header, then the leaves as frames::

    b"tpj1" | 0 | leaves                       unsigned
    b"tpj1" | 1 | HMAC-SHA256 (32 bytes) | leaves    signed; the MAC covers the task id too
"""

from __future__ import annotations

import hashlib
import hmac
import io
import pickle
from collections.abc import Callable, Sequence
from datetime import datetime, time, timedelta
from typing import Any

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.serializer.frames import joined, split
from taskiq_pg_json.serializer.reductions import PROTOCOL, Reduction, reduction

_MAGIC = b"tpj1"
_UNSIGNED = b"\x00"
_SIGNED = b"\x01"
_MAC_SIZE = 32
_MIN_KEY = 16


class PickleFallback:
    """Pickles the leaves that no rule of the serializer covers.

    Args:
        key: signs what is written, and refuses on reading whatever was not signed for the same
            task with this key. A sequence rotates keys: the first one signs, all of them verify.
            At least 16 bytes. None neither signs nor verifies: then whoever can write to the
            table can run code in a reader.
    """

    def __init__(self, key: str | bytes | Sequence[str | bytes] | None = None) -> None:
        keys = [key] if isinstance(key, str | bytes) else key
        if keys is not None and not _are_keys(keys):
            raise ConfigurationError(
                f"PickleFallback(key=…) needs keys of at least {_MIN_KEY} bytes,"
                " such as secrets.token_bytes(32), or text without lone surrogates: one or a list"
                " of them."
            )
        self._keys = tuple(map(_as_bytes, keys or ()))

    def dumps(self, value: object, *, refuse: Callable[[object], None]) -> bytes:
        """Pickle one leaf, and check that it loads back.

        Args:
            value: the leaf.
            refuse: called with every object inside; raises for one that must not be written.
        """
        try:
            data = _dumped(value, refuse, in_cycle=False)
        except RecursionError:
            data = _dumped(value, refuse, in_cycle=True)
        loaded = pickle.loads(data)  # noqa: S301 - bytes made here, one line above
        if type(loaded) is not type(value):
            raise pickle.PicklingError(
                f"it would come back as {type(loaded).__name__} instead of {type(value).__name__}"
            )
        if isinstance(value, datetime | time) and _offset(loaded) != _offset(value):
            raise pickle.PicklingError("it would come back with another UTC offset")
        return data

    def pack(self, leaves: Sequence[bytes], *, task_id: str) -> bytes:
        """The row's bytea."""
        body = joined(leaves)
        if not self._keys:
            return _MAGIC + _UNSIGNED + body
        return _MAGIC + _SIGNED + _mac(self._keys[0], task_id, body) + body

    def unpack(self, pickled: bytes, *, task_id: str) -> list[bytes]:
        """The leaves of a row's bytea, none of them loaded yet.

        Raises:
            ValueError: they are damaged, or not signed as they have to be.
        """
        header, mode = pickled[: len(_MAGIC)], pickled[len(_MAGIC) : len(_MAGIC) + 1]
        body = pickled[len(_MAGIC) + 1 :]
        if header != _MAGIC or mode not in {_UNSIGNED, _SIGNED}:
            raise ValueError("the pickled column is damaged, or of a newer version")
        if mode == _SIGNED:
            mac, body = body[:_MAC_SIZE], body[_MAC_SIZE:]
            if not self._keys:
                raise ValueError("the row is signed: give its key, PickleFallback(key=…)")
            good = [hmac.compare_digest(mac, _mac(key, task_id, body)) for key in self._keys]
            if not any(good):
                raise ValueError("its signature is not one of this task and key")
        elif self._keys:
            raise ValueError("the row is not signed, and PickleFallback(key=…) reads no such row")
        return split(body)

    def loads(self, leaf: bytes) -> object:
        """The value of one leaf."""
        return pickle.loads(leaf)  # noqa: S301 - what the fallback is for; verified by unpack


class _Reduced:
    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction


class _PythonsPickler(pickle.Pickler):
    """Pickles everything its own way, but what is reduced already."""

    def __init__(self, file: io.BytesIO, refuse: Callable[[object], None]) -> None:
        super().__init__(file, PROTOCOL)
        self._refuse = refuse

    def reducer_override(self, value: object) -> Any:  # noqa: ANN401 - as pickle declares it
        if type(value) is _Reduced:
            return value.reduction
        self._refuse(value)
        return NotImplemented


class _Pickler(_PythonsPickler):
    """Pickles by their state the objects whose own way loses some of it."""

    def __init__(
        self, file: io.BytesIO, refuse: Callable[[object], None], *, in_cycle: bool
    ) -> None:
        super().__init__(file, refuse)
        self._in_cycle = in_cycle

    def reducer_override(self, value: object) -> Any:  # noqa: ANN401 - as pickle declares it
        self._refuse(value)
        return reduction(value, self._comes_back, in_cycle=self._in_cycle)

    def _comes_back(self, reduced: Reduction) -> bool:
        buffer = io.BytesIO()
        try:
            _PythonsPickler(buffer, self._refuse).dump(_Reduced(reduced))
            pickle.loads(buffer.getvalue())  # noqa: S301 - bytes made here, one line above
        except Exception:  # noqa: BLE001 - a reduce of the user's may raise anything
            return False
        return True


def _dumped(value: object, refuse: Callable[[object], None], *, in_cycle: bool) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, refuse, in_cycle=in_cycle).dump(value)
    return buffer.getvalue()


def _offset(value: Any) -> timedelta | None:  # noqa: ANN401 - a datetime or time
    try:
        found: timedelta | None = value.utcoffset()
    except Exception:  # noqa: BLE001 - a time zone of somebody's, which may fail as it likes
        return None
    return found


def _are_keys(keys: object) -> bool:
    return isinstance(keys, Sequence) and bool(keys) and all(map(_is_key, keys))


def _is_key(key: object) -> bool:
    try:
        return isinstance(key, str | bytes) and len(_as_bytes(key)) >= _MIN_KEY
    except UnicodeEncodeError:
        return False


def _as_bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _mac(key: bytes, task_id: str, body: bytes) -> bytes:
    owner = task_id.encode("utf-8", "surrogatepass")
    signed = b"%s%d:%s%s" % (_MAGIC, len(owner), owner, body)
    return hmac.new(key, signed, hashlib.sha256).digest()
