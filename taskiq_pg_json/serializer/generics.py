"""Names of parametrised pydantic models: ``shop.models:Page[list[shop.models:Invoice]]``.

An argument is a class, a container or union of what can be an argument, a Literal, Any or None.
"""

from __future__ import annotations

import json
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from taskiq_pg_json.serializer.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    Locate = Callable[[str], type | None]
    LocationOf = Callable[[type], str | None]

_MAX_LEVELS = 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][,|]|[^][,|"]+')
_WORDS: dict[str, object] = {"Any": Any, "typing:Any": Any, "None": None, "...": ...}
_CLASSES: dict[str, type] = {
    **{f"{scalar.cls.__module__}:{scalar.cls.__qualname__}": scalar.cls for scalar in SCALARS},
    **{c.__name__: c for c in (str, int, float, bool, bytes, list, dict, set, tuple, type(None))},
}
_CLASS_NAMES = {cls: name for name, cls in _CLASSES.items()}
_CONTAINERS: dict[str, Any] = {
    **{cls.__name__: cls for cls in (list, dict, set, frozenset, tuple)},
    **{name: getattr(typing, name) for name in ("List", "Dict", "Set", "FrozenSet", "Tuple")},
}
_GENERICS: dict[str, Any] = {**_CONTAINERS, "Union": Union, "Literal": Literal}
_LITERALS = (str, int, bool, type(None))


class _NoNameError(ValueError):
    """The annotation has no name, or the name no annotation."""


def metadata_of(cls: type) -> tuple[type, tuple[object, ...]] | None:
    """The generic model and the arguments of a parametrised one; None for any other class."""
    if not issubclass(cls, BaseModel):
        return None
    metadata = cls.__pydantic_generic_metadata__
    origin = metadata["origin"]
    return None if origin is None else (origin, metadata["args"])


def render(origin: type, arguments: tuple[object, ...], location_of: LocationOf) -> str | None:
    """The name of a parametrised model; None when the model or an argument has none."""
    head = location_of(origin)
    try:
        names = [_render(argument, location_of) for argument in arguments]
    except ValueError:
        return None
    return None if head is None else f"{head}[{','.join(names)}]"


def _render(annotation: object, location_of: LocationOf) -> str:
    """The name of an argument.

    Raises:
        ValueError: it has none.
    """
    for word, known in _WORDS.items():
        if annotation is known:
            return word
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return _render_class(annotation, location_of)
    if origin is Literal:
        return f"Literal[{','.join(map(_render_literal, arguments))}]"
    names = [_render(argument, location_of) for argument in arguments]
    if origin is types.UnionType:
        return "|".join(names)
    if origin is Union:
        return f"Union[{','.join(names)}]"
    for name, container in _CONTAINERS.items() if arguments else ():
        if (get_origin(container) or container) is origin and container[arguments] == annotation:
            return f"{name}[{','.join(names)}]"
    raise _NoNameError


def _render_class(cls: object, location_of: LocationOf) -> str:
    name = (_CLASS_NAMES.get(cls) or location_of(cls)) if isinstance(cls, type) else None
    if name is None:
        raise _NoNameError
    return name


def _render_literal(value: object) -> str:
    if type(value) not in _LITERALS:
        raise _NoNameError
    return json.dumps(value)


def find(name: str, locate: Locate) -> type | None:
    """The class of a name with brackets: one that was given such a name, or a parametrised model.

    None when a class in it cannot be found. Parametrising is pydantic's own work, on classes that
    ``locate`` has accepted.
    """
    cls = locate(name)
    if cls is not None and metadata_of(cls) is None:
        return cls
    try:
        found = _Parser(name, locate).parse()
    except (TypeError, ValueError, PydanticUserError):
        return None
    return found if isinstance(found, type) else None


class _Parser:
    """Reads one name, from left to right.

    Raises:
        ValueError, TypeError, PydanticUserError: it is none that ``render`` makes.
    """

    def __init__(self, text: str, locate: Locate) -> None:
        self._tokens = _TOKEN.findall(text)[::-1]
        self._locate = locate
        self._levels = 0
        if sum(map(len, self._tokens)) != len(text):
            raise _NoNameError

    def parse(self) -> object:
        """The one annotation that the name is."""
        found = self._annotation()
        if self._tokens:
            raise _NoNameError
        return found

    def _annotation(self) -> object:
        found: Any = self._member()
        while self._takes("|"):
            found |= self._member()
        return found

    def _member(self) -> object:
        name = self._token()
        if not self._takes("["):
            return _WORDS[name] if name in _WORDS else self._class(name)
        self._levels += 1
        if self._levels > _MAX_LEVELS:
            raise _NoNameError
        read = self._literal if name == "Literal" else self._annotation
        arguments = [read()]
        while self._takes(","):
            arguments.append(read())
        if not self._takes("]"):
            raise _NoNameError
        self._levels -= 1
        return self._parametrised(name, tuple(arguments))

    def _parametrised(self, name: str, arguments: tuple[object, ...]) -> object:
        if name in _GENERICS:
            return _GENERICS[name][arguments]
        origin = self._class(name)
        if not issubclass(origin, BaseModel):
            raise _NoNameError
        if len(origin.__pydantic_generic_metadata__["parameters"]) != len(arguments):
            raise _NoNameError
        return cast("Any", origin)[arguments]

    def _class(self, name: str) -> type:
        cls = _CLASSES.get(name) or self._locate(name)
        if cls is None:
            raise _NoNameError
        return cls

    def _literal(self) -> object:
        value: object = json.loads(self._token())
        if type(value) not in _LITERALS:
            raise _NoNameError
        return value

    def _takes(self, token: str) -> bool:
        if self._tokens[-1:] != [token]:
            return False
        self._tokens.pop()
        return True

    def _token(self) -> str:
        if not self._tokens:
            raise _NoNameError
        token: str = self._tokens.pop()
        return token
