"""Classes with codecs of the application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer.exceptions.printable import called
from taskiq_pg_json.serializer.nodes import wrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node
    from taskiq_pg_json.serializer.registry import Registration


def handler(entry: Registration) -> Callable[[Encoder, Any], Encoded]:
    """Encode with the function registered for the class."""
    name, encode = f"custom:{entry.name}", entry.encode

    def encode_custom(encoder: Encoder, value: object) -> Encoded:
        try:
            encoded = encode(value)  # type: ignore[misc]
        except Exception as exc:
            raised = called(repr, exc)
            raise encoder.refusal(value, f"the function registered for it raised {raised}") from exc
        encoder.enter()
        plain, node = encoder.encode(encoded)
        encoder.leave()
        return wrap(name, plain, node)

    return encode_custom


def read(decoder: Decoder, plain: object, argument: str, node: Node) -> object:
    """Decode with the function registered under the name."""
    entry = decoder.registry.of_name(argument)
    if entry is None or entry.decode is None:
        return decoder.unresolved(f"custom:{argument}", plain)
    return entry.decode(decoder.inner(plain, node))
