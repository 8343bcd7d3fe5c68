"""What a serializer of the user's choice does, found out by trying it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.adapters import TaskiqSerializer

_PROBE: dict[str, object] = {"probe": [None, True, 1, 1.5, "é", {}]}


@dataclass
class _Probe:
    shown: int = 1
    _kept: int = 2


def writes_json(serializer: TaskiqSerializer) -> bool:
    """Whether plain data become JSON."""
    try:
        written: object = json.loads(serializer.dumpb(_PROBE))
    except Exception:  # noqa: BLE001 - whatever it does with the probe, it is not JSON
        return False
    return written == _PROBE


def keeps_objects(serializer: TaskiqSerializer) -> bool:
    """Whether objects come back as themselves, as from a pickle."""
    try:
        return serializer.loadb(serializer.dumpb(_Probe())) == _Probe()
    except Exception:  # noqa: BLE001 - likewise
        return False


def is_taskiqs(serializer: TaskiqSerializer) -> bool:
    """Whether it writes as one of taskiq's own does."""
    module = getattr(type(serializer).dumpb, "__module__", None)
    return isinstance(module, str) and module.startswith("taskiq.")


def drops_fields(serializer: TaskiqSerializer) -> bool:
    """Whether it writes dataclasses by itself and not in full, as orjson does."""
    try:
        written: object = json.loads(serializer.dumpb(_Probe()))
    except Exception:  # noqa: BLE001 - likewise
        return False
    return written == {"shown": 1}
