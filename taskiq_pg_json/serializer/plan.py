"""What a serializer has worked out for every class that it met: how its values are encoded."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer import containers, custom, enums, optional, raised, secret, text
from taskiq_pg_json.serializer.encoder import Encoder
from taskiq_pg_json.serializer.kinds import PAYLOADS, kind_of
from taskiq_pg_json.serializer.knownforms import Forms
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.resolve import location_of
from taskiq_pg_json.serializer.scalars import SCALARS, Scalar
from taskiq_pg_json.serializer.shapes import shape_of
from taskiq_pg_json.serializer.tables import (
    encode_datetimes,
    encode_decimals,
    encode_lists,
    encode_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from taskiq_pg_json.serializer.encoder import Column
    from taskiq_pg_json.serializer.pickling import PickleFallback
    from taskiq_pg_json.serializer.protocol import Encoded
    from taskiq_pg_json.serializer.registry import TypeRegistry

    Handler = Callable[[Encoder, Any], Encoded]
    ColumnHandler = Callable[[Encoder, Any], Column | None]

BUILTINS = frozenset(
    {dict, list, *Encoder.settled, *containers.HANDLERS, *(scalar.cls for scalar in SCALARS)}
)
"""The classes whose values need no codec."""

_MAX_LAYOUTS = 4_096
_MAX_REMEMBERED_KEYS = 64
_MAX_REMEMBERED_TEXT = 4_096  # characters of all keys together


class Plan:
    """The encoding side of one serializer."""

    def __init__(
        self,
        registry: TypeRegistry,
        fallback: PickleFallback | None,
        *,
        preserve_order: bool,
        store_secrets: bool,
        max_bytes: int,
    ) -> None:
        self.registry = registry
        self.fallback = fallback
        self.preserve_order = preserve_order
        self.store_secrets = store_secrets
        self.max_bytes = max_bytes
        self.layouts: dict[Hashable, dict[str, object]] = {}
        self.forms = Forms(self.layouts)
        self.warned: set[type] = set()
        self.handlers = _Handlers(self)
        self.columns: dict[type, ColumnHandler] = {
            dict: encode_rows,
            list: encode_lists,
            datetime: encode_datetimes,
            Decimal: encode_decimals,
        }

    def remember_layout(self, names: tuple[object, ...], layout: dict[str, object] | None) -> None:
        """Keep what was found of these keys, within bounds."""
        if layout is None or len(names) > _MAX_REMEMBERED_KEYS:
            return
        if len("".join(map(str, names))) > _MAX_REMEMBERED_TEXT:
            return
        if len(self.layouts) >= _MAX_LAYOUTS:
            self.layouts.clear()
        self.layouts[names] = layout


class _Handlers(dict[type, "Handler"]):
    """Handlers by class; one is worked out when its class is first met."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(containers.HANDLERS)
        self.update((scalar.cls, _scalar_handler(scalar)) for scalar in SCALARS)
        self[dict] = Encoder.encode_dict
        self[list] = Encoder.encode_list
        self[str] = _leaf_handler(text.encode_text)
        self[int] = _leaf_handler(text.encode_int)
        self._plan = plan

    def __missing__(self, cls: type) -> Handler:
        handler = self[cls] = self._work_out(cls)
        return handler

    def _work_out(self, cls: type) -> Handler:  # noqa: PLR0911 - one for each family
        entry = self._plan.registry.of_class(cls)
        if entry is not None and entry.encode is not None:
            return custom.handler(entry)
        found = secret.handler(cls, store=self._plan.store_secrets) or optional.handler(cls)
        if found is not None:
            return found
        kind = kind_of(cls)
        if kind == "exception":
            return raised.encode_exception
        location = location_of(cls, self._plan.registry) if entry is None else entry.name
        if kind is None or location is None:
            return encode_unknown
        name = f"{kind}:{location}"
        if kind == "enum":
            return enums.handler(cls, name)
        if kind in PAYLOADS:
            return containers.payload_handler(cls, kind, name)
        shape = shape_of(cls, kind, name)
        self._plan.columns[cls] = shape.encode_column
        return shape.encode


def _scalar_handler(scalar: Scalar) -> Handler:
    if scalar.encode is not None:
        return _leaf_handler(scalar.encode)
    name = scalar.name
    return lambda _encoder, value: (value, name)


def _leaf_handler(encode: Callable[[Any], Encoded | None]) -> Handler:
    def handler(encoder: Encoder, value: object) -> Encoded:
        return encode(value) or encode_unknown(encoder, value)

    return handler
