"""pydantic's secrets: refused, unless the serializer was told to store them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Secret, SecretBytes, SecretStr

from taskiq_pg_json.serializer.nodes import wrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

_TYPES: dict[str, type] = {"SecretStr": SecretStr, "SecretBytes": SecretBytes, "Secret": Secret}
_REASON = (
    "a secret would be readable in the database:"
    ' JsonSerializer(secrets="store") stores it all the same'
)


def handler(cls: type, *, store: bool) -> Callable[[Encoder, Any], Encoded] | None:
    """How a secret is encoded; None for any other class."""
    if not issubclass(cls, (SecretStr, SecretBytes, Secret)):
        return None
    name = next((name for name, known in _TYPES.items() if known is cls), None)
    if name is None or not store:
        return _refuse if not store else None

    def encode(encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - any of the secrets
        plain, node = encoder.encode(value.get_secret_value())
        return wrap(name, plain, node)

    return encode


def _refuse(encoder: Encoder, value: object) -> Encoded:
    raise encoder.refusal(value, _REASON)


def refuser(*, store: bool) -> Callable[[object], None]:
    """What keeps secrets out of pickles."""
    return _allow if store else _forbid


def _allow(_value: object) -> None:
    pass


def _forbid(value: object) -> None:
    if isinstance(value, (SecretStr, SecretBytes, Secret)):
        raise TypeError(_REASON)


def _reader(cls: type) -> Callable[[Decoder, Any, str, Node], object]:
    def read(decoder: Decoder, plain: object, _argument: str, node: Node) -> object:
        return cls(decoder.inner(plain, node))

    return read


READERS = {name: _reader(cls) for name, cls in _TYPES.items()}
