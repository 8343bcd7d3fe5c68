"""From a stored type name to a class, without running anything that a row could choose.

A name is looked up in the registry, then in modules that match an ``allow`` pattern (imported if
need be), then, unless ``strict``, in modules that are imported already. The walk from the
module goes through classes only and reads namespaces directly, so that no ``__getattr__`` and no
descriptor runs, no lazy module is loaded, and no proxy is asked what it stands for; and the class
found has to be of the kind that the name says.
"""

from __future__ import annotations

import importlib
import logging
import sys
from fnmatch import fnmatchcase
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

from taskiq_pg_json.serializer import generics, optional, secret
from taskiq_pg_json.serializer.containers import HANDLERS
from taskiq_pg_json.serializer.kinds import attributes, inherited, is_of_kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskiq_pg_json.serializer.registry import TypeRegistry

logger = logging.getLogger("taskiq_pg_json")

_MAX_NAME = 1_000
_MAX_BROKEN = 1_000
"""Modules that are remembered as raising when they are imported, so as not to be run again."""
_namespace = vars(ModuleType)["__dict__"].__get__


class Resolver:
    """Finds the classes of stored names."""

    def __init__(self, registry: TypeRegistry, allow: Sequence[str], *, strict: bool) -> None:
        self._registry = registry
        self._allow = tuple(allow)
        self._strict = strict
        self._broken: set[str] = set()

    def find(self, type_name: str) -> type | None:
        """The class that ``kind:module:QualName`` may stand for; None when there is none."""
        kind, _, location = type_name.partition(":")
        if len(location) > _MAX_NAME:
            return None
        registered = self._registry.of_name(location)
        if registered is not None:
            return registered.cls if is_of_kind(registered.cls, kind) else None
        if "[" in location:
            cls = generics.find(location, self._locate_argument)
        else:
            cls = self._locate(location)
        return cls if cls is not None and is_of_kind(cls, kind) else None

    def _locate(self, location: str) -> type | None:
        registered = self._registry.of_name(location)
        if registered is not None:
            return registered.cls
        module_name, _, qualname = location.partition(":")
        is_allowed = not self._strict or self._matches(module_name, location)
        if not is_allowed and module_name != "builtins":
            return None
        module = self._module(module_name, location)
        cls = None if module is None else walk(module, qualname)
        return cls if is_allowed or (cls and issubclass(cls, BaseException)) else None

    def _locate_argument(self, location: str) -> type | None:
        cls = self._locate(location)
        return cls if cls is not None and _has_a_name(cls, self._registry) else None

    def _module(self, name: str, location: str) -> ModuleType | None:
        module = sys.modules.get(name)
        if type(module) is not ModuleType and self._matches(name, location):
            module = self._import(name)
        return module if is_module(module) else None

    def _import(self, name: str) -> ModuleType | None:
        """The module, imported; None where that fails, or would run a program."""
        if name in self._broken or name.rpartition(".")[2] == "__main__":
            return None
        try:
            module = importlib.import_module(name)
            if is_module(module):
                vars(module)  # which loads a lazy one
        except ImportError:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever its code raises, SystemExit too: a row is no way to end us
            logger.warning("%s, which a row names, cannot be imported.", name, exc_info=True)
            if len(self._broken) < _MAX_BROKEN:
                self._broken.add(name)
            return None
        return module

    def _matches(self, module_name: str, location: str) -> bool:
        dotted = location.replace(":", ".")
        return any(
            fnmatchcase(module_name, pattern) or fnmatchcase(dotted, pattern)
            for pattern in self._allow
        )

    def module(self, name: str) -> ModuleType | None:
        """A module that is imported, or that ``allow`` names."""
        return self._module(name, name)


def is_module(found: object) -> TypeGuard[ModuleType]:
    """Whether it is a module itself, and no proxy that says so."""
    return issubclass(type(found), ModuleType)


def namespace_of(module: ModuleType) -> dict[str, object]:
    """What a module holds, so far if it is a lazy one."""
    found: dict[str, object] = _namespace(module)
    return found


def walk(module: ModuleType, qualname: str) -> type | None:
    """The class of that name in a module, through classes only; one with ``__del__`` is none.

    A finaliser would run with whatever state a row gives it.
    """
    namespace = namespace_of(module)
    cls: type | None = None
    for name in qualname.split("."):
        found = namespace.get(name)
        if not _is_class(found):
            return None
        cls, namespace = found, attributes(found)
    return None if cls is None or inherited(cls, "__del__") is not None else cls


def _is_class(found: object) -> TypeGuard[type]:
    """Whether it is a class itself: ``isinstance`` would ask a proxy what it stands for."""
    return issubclass(type(found), type)


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
    return walk(module, qualname) if is_module(module) else None
