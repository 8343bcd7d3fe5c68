"""From a stored type name to a class, without running anything that a row could choose.

A name is looked up in the registry, then in modules that match an ``allow`` pattern (imported if
need be), then, unless ``strict``, in modules that are imported already. The walk from the
module goes through classes only and reads namespaces directly, so that no ``__getattr__`` and no
descriptor runs; and the class found has to be of the kind that the name says.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from fnmatch import fnmatchcase
from types import ModuleType
from typing import TYPE_CHECKING

from taskiq_pg_json.serializer import generics, optional, secret
from taskiq_pg_json.serializer.containers import HANDLERS
from taskiq_pg_json.serializer.kinds import attributes, inherited, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskiq_pg_json.serializer.registry import TypeRegistry

_MAX_NAME = 1_000


class Resolver:
    """Finds the classes of stored names."""

    def __init__(self, registry: TypeRegistry, allow: Sequence[str], *, strict: bool) -> None:
        self._registry = registry
        self._allow = tuple(allow)
        self._strict = strict

    def find(self, type_name: str) -> type | None:
        """The class that ``kind:module:QualName`` may stand for; None when there is none."""
        kind, _, location = type_name.partition(":")
        if len(location) > _MAX_NAME:
            return None
        registered = self._registry.of_name(location)
        if registered is not None:
            return registered.cls if _fits(kind, registered.cls) else None
        if "[" in location:
            cls = generics.find(location, self._locate_argument)
        else:
            cls = self._locate(location)
        return cls if cls is not None and _fits(kind, cls) else None

    def _locate(self, location: str) -> type | None:
        registered = self._registry.of_name(location)
        if registered is not None:
            return registered.cls
        module_name, _, qualname = location.partition(":")
        module = self._module(module_name, location)
        cls = None if module is None else walk(module, qualname)
        if cls is None or (self._strict and not self._is_allowed(location, module_name, cls)):
            return None
        return cls

    def _locate_argument(self, location: str) -> type | None:
        cls = self._locate(location)
        return cls if cls is not None and _has_a_name(cls, self._registry) else None

    def _module(self, name: str, location: str) -> ModuleType | None:
        module = sys.modules.get(name)
        if module is None and self._matches(name, location):
            try:
                module = importlib.import_module(name)
            except ImportError:
                return None
        return module if isinstance(module, ModuleType) else None

    def _matches(self, module_name: str, location: str) -> bool:
        dotted = location.replace(":", ".")
        return any(
            fnmatchcase(module_name, pattern) or fnmatchcase(dotted, pattern)
            for pattern in self._allow
        )

    def _is_allowed(self, location: str, module_name: str, cls: type) -> bool:
        return self._matches(module_name, location) or _is_builtin_exception(cls)

    def module(self, name: str) -> ModuleType | None:
        """A module that is imported, or that ``allow`` names."""
        return self._module(name, name)


def _is_builtin_exception(cls: type) -> bool:
    return issubclass(cls, BaseException) and vars(builtins).get(cls.__name__) is cls


def _fits(kind: str, cls: type) -> bool:
    return kind_of(cls) == kind


def walk(module: ModuleType, qualname: str) -> type | None:
    """The class of that name in a module, through classes only; one with ``__del__`` is none.

    A finaliser would run with whatever state a row gives it.
    """
    namespace: dict[str, object] = vars(module)
    found: object = None
    for name in qualname.split("."):
        found = namespace.get(name)
        if not isinstance(found, type):
            return None
        namespace = attributes(found)
    if not isinstance(found, type) or inherited(found, "__del__") is not None:
        return None
    return found


def location_of(cls: type, registry: TypeRegistry) -> str | None:
    """``module:QualName`` when that leads back to the class; None for a local class.

    A parametrised model whose arguments cannot be named has the name of its generic one.
    """

    def named(argument: type) -> str | None:
        return location_of(argument, registry)

    def argument_of(location: str) -> type | None:
        found = _imported(location)
        return found if found is not None and _has_a_name(found, registry) else None

    metadata = generics.metadata_of(cls)
    if metadata is not None:
        name = generics.render(*metadata, named)
        if name is not None and len(name) <= _MAX_NAME and generics.find(name, argument_of) is cls:
            return name
        return named(metadata[0])
    location = f"{cls.__module__}:{cls.__qualname__}"
    return location if _imported(location) is cls else None


def _has_a_name(cls: type, registry: TypeRegistry) -> bool:
    """Whether values of a class are stored under a name, so that a model may be one of it.

    pydantic asks an argument's class for its schema, which is code of that class.
    """
    return (
        kind_of(cls) is not None
        or cls in HANDLERS
        or registry.of_class(cls) is not None
        or secret.handler(cls, store=True) is not None
        or optional.handler(cls) is not None
    )


def _imported(location: str) -> type | None:
    """The class of that location in a module that is imported already."""
    module_name, _, qualname = location.partition(":")
    module = sys.modules.get(module_name)
    return walk(module, qualname) if isinstance(module, ModuleType) else None
