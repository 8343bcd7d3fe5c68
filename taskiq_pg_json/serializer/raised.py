"""Exceptions wherever they stand in a row: the seam to the exception codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_pg_json.serializer import exceptions
from taskiq_pg_json.serializer.encoder import OptimismFailedError

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

_LEVELS = 2
"""Nesting of an exception's arguments and attributes below the exception itself."""


def encode_exception(encoder: Encoder, value: BaseException) -> Encoded:
    """An exception, with whatever its arguments and attributes hold.

    One that is met again inside itself is stored there as where it stands.
    """
    depth = encoder.depth

    def encode_value(child: object, path: str) -> Encoded:
        encoder.depth = depth + _LEVELS
        leaves, room = len(encoder.leaves), encoder.room
        try:
            return encoder.encode_at(child, path)
        except (OptimismFailedError, *exceptions.INTERRUPTS):
            raise
        except BaseException:  # a panic too: the exception codec writes the child's repr instead
            encoder.accept_failure()
            del encoder.leaves[leaves:]
            encoder.room = room
            raise
        finally:
            encoder.depth = depth

    name_of = encoder.plan.registry.name_of
    return exceptions.encode_exception(value, encode_value, name_of, encoder.open_errors)


def read_exception(decoder: Decoder, plain: object, node: Node | None) -> object:
    """The exception, as its own class or a stand-in of the same name."""
    return exceptions.decode_exception(
        plain, node, decoder.decode_at, decoder.find, decoder.open_errors
    )
