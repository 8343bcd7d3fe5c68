"""Dates and times as ISO 8601, with what ISO cannot say in the type's name.

``datetime`` and ``time`` have a naive value or a plain UTC offset, which the text holds.
``datetime:Europe/Berlin`` is in that ZoneInfo, ``datetime:=CET`` in a fixed offset of that name,
``datetime:~pydantic`` in one that pydantic has made, and ``:fold`` at the end is ``fold=1``.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from pydantic_core import TzInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

    from taskiq_pg_json.serializer.protocol import Encoded

_zone_of = attrgetter("tzinfo")
_fold_of = attrgetter("fold")
_Clock = TypeVar("_Clock", datetime, time)

_UTC = timezone.utc
_SIMPLE_ZONES = {id(None), id(_UTC)}
_PYDANTIC = "~pydantic"
_ZONE_NAME = re.compile(r"[\w+./-]+", re.ASCII)
_DURATION = re.compile(
    r"P(?:(-?\d{1,9})D)?(?:T(?:(-?\d{1,2})H)?(?:(-?\d{1,2})M)?(?:(-?)(\d{1,2})(?:\.(\d{6}))?S)?)?",
    re.ASCII,
)


def encode_datetime(value: datetime) -> Encoded | None:
    """ISO 8601 text; None when the zone is one that has no name here."""
    if is_simple(value):
        # orjson writes it as isoformat() does, and faster
        return value, "datetime"
    return _encode_clock(value, "datetime")


def is_simple(value: datetime) -> bool:
    """Whether ISO text says all of it."""
    zone = value.tzinfo
    return (zone is None or zone is _UTC) and not value.fold


def are_simple(values: Iterable[datetime]) -> bool:
    """Whether ISO text says all of each of these."""
    zones = set(map(id, map(_zone_of, values)))  # a zone of another name may be equal to UTC
    return zones <= _SIMPLE_ZONES and not any(map(_fold_of, values))


def encode_time(value: time) -> Encoded | None:
    """ISO 8601 text; None when the zone is one that has no name here."""
    return _encode_clock(value, "time")


def _encode_clock(value: datetime | time, name: str) -> Encoded | None:
    argument = zone_name(value.tzinfo)
    if argument is None:
        return None
    node = name
    if argument or value.fold:
        node += f":{argument}"
    if value.fold:
        node += ":fold"
    return value.isoformat(), node


def zone_name(zone: tzinfo | None) -> str | None:
    """What the type's name says of a zone: nothing where ISO text has it all; None if it cannot."""
    if zone is None or zone is _UTC:
        return ""
    if type(zone) is ZoneInfo:
        key = zone.key
        return key if key is not None and key in _known_zones() else None
    if type(zone) is timezone:
        return _fixed_zone_name(zone)
    return _PYDANTIC if type(zone) is TzInfo else None


def _fixed_zone_name(zone: timezone) -> str | None:
    if abs(zone.utcoffset(None)) < timedelta(seconds=1):
        # fromisoformat() takes such an offset for UTC
        return None
    name = _fixed_name(zone)
    if name is None:
        return ""
    return f"={name}" if _ZONE_NAME.fullmatch(name) else None


def _fixed_name(zone: timezone) -> str | None:
    """The name that a fixed offset was given; None without one."""
    arguments: tuple[object, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]
    return str(arguments[1]) if len(arguments) > 1 else None


@lru_cache(maxsize=1)
def _known_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def decode_datetime(plain: object, argument: str) -> datetime:
    """The datetime of ISO text."""
    value = datetime.fromisoformat(_text(plain))
    return value if not argument else _decode_clock(value, argument)


def decode_time(plain: object, argument: str) -> time:
    """The time of ISO text."""
    value = time.fromisoformat(_text(plain))
    return value if not argument else _decode_clock(value, argument)


def _decode_clock(value: _Clock, argument: str) -> _Clock:
    name, _, fold = argument.partition(":")
    if fold not in {"", "fold"}:
        raise ValueError(f"{fold!r} is no fold")
    zone = decode_zone(name, value.tzinfo)
    return value.replace(tzinfo=zone, fold=1 if fold else 0)


def decode_zone(name: str, fixed: tzinfo | None) -> tzinfo | None:
    """The zone of a type's name; ``fixed`` is what the ISO text said.

    Raises:
        LookupError: this machine has no such zone.
    """
    if not name:
        return fixed
    if name == _PYDANTIC or name.startswith("="):
        offset = fixed.utcoffset(None) if fixed is not None else None
        if offset is None:
            raise ValueError(f"a zone named {name[1:]!r} without an offset")
        if name == _PYDANTIC:
            return TzInfo(offset.total_seconds())
        return timezone(offset, name[1:])
    if name not in _known_zones():
        raise LookupError(f"there is no time zone {name!r} here (pip install tzdata?)")
    return ZoneInfo(name)


def encode_timedelta(value: timedelta) -> str:
    """An ISO 8601 duration that PostgreSQL casts to interval: every part has its own sign."""
    sign = "-" if value.days < 0 else ""
    if sign:
        value = -value
    text = f"P{sign}{value.days}D" if value.days else "P"
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    clock = ""
    if hours:
        clock += f"{sign}{hours}H"
    if minutes:
        clock += f"{sign}{minutes}M"
    if value.microseconds:
        clock += f"{sign}{seconds}.{value.microseconds:06d}S"
    elif seconds or not (clock or value.days):
        clock += f"{sign}{seconds}S"
    return f"{text}T{clock}" if clock else text


def decode_timedelta(plain: object, _argument: str = "") -> timedelta:
    """The timedelta of an ISO 8601 duration."""
    match = _DURATION.fullmatch(_text(plain))
    if match is None:
        raise ValueError(f"{plain!r} is no duration")
    days, hours, minutes, sign, seconds, micros = match.groups()
    seconds, micros = int(seconds or 0), int(micros or 0)
    if sign:
        seconds, micros = -seconds, -micros
    return timedelta(int(days or 0), seconds, micros, 0, int(minutes or 0), int(hours or 0))


def decode_date(plain: object, _argument: str = "") -> date:
    """The date of ISO text."""
    return date.fromisoformat(_text(plain))


def _text(plain: object) -> str:
    if type(plain) is not str:
        raise TypeError(f"expected text, found {type(plain).__name__}")
    return plain
