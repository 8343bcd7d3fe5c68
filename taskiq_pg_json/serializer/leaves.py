"""Leaves that no rule covers: text to read in the JSON, their pickle in the row's bytea."""

from __future__ import annotations

import contextlib
import reprlib
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer import secret
from taskiq_pg_json.serializer.exceptions.printable import NO_REFUSALS, message_of
from taskiq_pg_json.serializer.kinds import base_among
from taskiq_pg_json.serializer.text import is_clean
from taskiq_pg_json.serializer.times import encode_timedelta

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded

_MAX_REPR = 200


class PickledValueWarning(UserWarning):
    """A value was pickled because no rule of the serializer covers its type."""


class IncompleteValueWarning(UserWarning):
    """A value was stored without a part of it that cannot be stored."""


def can_be_pickled(encoder: Encoder, value: object) -> bool:
    """Whether ``encode_unknown`` would take a value."""
    plan = encoder.plan
    if plan.fallback is None:
        return False
    try:
        plan.fallback.dumps(value, refuse=secret.refuser(store=plan.store_secrets))
    except Exception:  # noqa: BLE001 - a reduce of the user's may raise anything
        return False
    return True


def encode_unknown(encoder: Encoder, value: object) -> Encoded:
    """Pickle one leaf alone."""
    plan, cls = encoder.plan, type(value)
    if plan.fallback is None:
        raise encoder.refusal(value, "no rule covers it, and fallback=None rules pickle out")
    first = cls not in plan.warned
    if first:
        encoder.prepare_to_warn()
    try:
        data = plan.fallback.dumps(value, refuse=secret.refuser(store=plan.store_secrets))
    except NO_REFUSALS:
        raise
    except BaseException as exc:
        raise encoder.refusal(value, f"it cannot be pickled either: {message_of(exc)}") from exc
    if first:
        plan.warned.add(cls)
        encoder.warn_of_pickle(value)
    encoder.leaves.append(data)
    return _written(value), {"pickle": len(encoder.leaves) - 1}


def _written(value: object) -> str:
    """A date, duration or Decimal as others of its kind are, so that SQL reads it; else a repr."""
    base = base_among(type(value), _WRITERS)
    if base is not None:
        with contextlib.suppress(Exception):  # a time zone may fail as it likes
            return _WRITERS[base](value)
    return _shown(value)


def _shown(value: object) -> str:
    """A repr that jsonb can hold, of 200 characters at most."""
    try:
        found = _REPR.repr(value)
    except NO_REFUSALS:
        raise
    except BaseException:  # noqa: BLE001 - a repr may fail as it likes; the value is in the pickle
        found = f"<{type(value).__qualname__}>"
    found = found if len(found) <= _MAX_REPR else f"{found[: _MAX_REPR - 1]}…"
    return found if is_clean(found) else ascii(found)[1:-1][:_MAX_REPR]


_WRITERS: dict[type, Callable[[Any], str]] = {
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: encode_timedelta(timedelta.__pos__(value)),  # not a subclass's parts
    Decimal: Decimal.__str__,
}


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxother = self.maxstring = _MAX_REPR


_REPR = _ShortRepr()
