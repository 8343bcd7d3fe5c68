"""Names of parametrised pydantic models: ``shop.models:Page[shop.models:Invoice]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable

_BUILTINS: dict[str, type] = {
    cls.__name__: cls for cls in (str, int, float, bool, bytes, list, dict, set, tuple, type(None))
}


def metadata_of(cls: type) -> tuple[type, tuple[object, ...]] | None:
    """The generic model and the arguments of a parametrised one; None for any other class."""
    if not issubclass(cls, BaseModel):
        return None
    metadata = cls.__pydantic_generic_metadata__
    origin = metadata["origin"]
    return None if origin is None else (origin, metadata["args"])


def render(cls: type, location_of: Callable[[type], str | None]) -> str | None:
    """The name of a parametrised model; None when an argument is no class with a name."""
    metadata = metadata_of(cls)
    if metadata is None:
        return (_BUILTINS.get(cls.__name__) is cls and cls.__name__) or location_of(cls)
    origin, arguments = metadata
    names = [
        render(argument, location_of) if isinstance(argument, type) else None
        for argument in (origin, *arguments)
    ]
    if None in names:
        return None
    return f"{names[0]}[{','.join(map(str, names[1:]))}]"


def parse(name: str, locate: Callable[[str], type | None]) -> type | None:
    """The model of such a name; None when a class in it cannot be found.

    Parametrising is pydantic's own work on classes that ``locate`` has accepted.
    """
    head, bracket, inner = name.partition("[")
    if not bracket:
        return _BUILTINS.get(name) or locate(name)
    if not inner.endswith("]"):
        return None
    origin = locate(head)
    arguments = [parse(argument, locate) for argument in _split(inner[:-1])]
    if origin is None or None in arguments or not issubclass(origin, BaseModel):
        return None
    parameters = origin.__pydantic_generic_metadata__["parameters"]
    if len(parameters) != len(arguments):
        return None
    made: object = origin[tuple(arguments)]  # type: ignore[index]
    return made if isinstance(made, type) else None


def _split(text: str) -> list[str]:
    """The arguments between commas that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]
