"""Finding the classes of stored names, and what to do without one."""

from __future__ import annotations

import re
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

from taskiq_pg_json.serializer.resolve import Resolver, is_module, namespace_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskiq_pg_json.serializer.registry import TypeRegistry


class UnresolvedTypeError(Exception):
    """A stored type name leads to no class, and ``on_unknown_type`` is ``"error"``."""


class UnresolvedTypeWarning(UserWarning):
    """A stored type name led to no class: the plain JSON is returned in its place."""


Place = tuple[str, ModuleType, dict[str, object], str, object]
"""A module, by name and itself, its namespace, a name in it, and what that holds."""

_LOCATION = re.compile(r"([^][,:]+):([^][,:.]+)")
_MAX_WARNINGS = 1_000
"""Names that are remembered as warned of: a damaged row could hold any number."""
_MAX_TEXT = 1_000
"""Characters of a name and of a reason that are told and remembered: rows can have any."""
_MAX_FOUND = 4_096
"""Names that are remembered with their classes: rows can name any number of parametrised models."""
_RESOLVE = (
    "it is not registered, not allowed, or its module is not imported here:"
    ' TypeRegistry.register(…), JsonSerializer(allow=["package.*"]), or import it'
)


class Lookup:
    """Resolves names, once each, and warns once of each that cannot be."""

    def __init__(
        self, registry: TypeRegistry, allow: Sequence[str], *, strict: bool, refuse_unknown: bool
    ) -> None:
        self.registry = registry
        self._resolver = Resolver(registry, allow, strict=strict)
        self._refuse_unknown = refuse_unknown
        self._found: dict[str, tuple[type, tuple[Place, ...]]] = {}
        self._warned: set[str] = set()

    def forget(self) -> None:
        """Resolve every name anew: the registry has changed."""
        self._found.clear()

    def find(self, name: str) -> type | None:
        """The class of a stored type name."""
        known = self._found.get(name)
        if known is not None:
            cls, places = known
            for module_name, module, namespace, attribute, held in places:
                if sys.modules.get(module_name) is not module or (
                    namespace.get(attribute) is not held
                ):
                    break
            else:
                return cls
        found = self._resolver.find(name)
        if found is not None:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            self._found[name] = found, self._places(name)
        return found

    def _places(self, name: str) -> tuple[Place, ...]:
        """What has to stay as it is for a name to lead to the same classes.

        A module that is loaded again, or a cell of a notebook that is run again, replaces them.
        """
        location = name.partition(":")[2]
        if self.registry.of_name(location) is not None:
            return ()
        return tuple(
            (module_name, module, namespace, attribute, namespace.get(attribute))
            for module_name, attribute in _LOCATION.findall(location)
            if is_module(module := sys.modules.get(module_name))
            for namespace in [namespace_of(module)]
        )

    def module(self, name: str) -> ModuleType | None:
        """A module that is imported, or that ``allow`` names."""
        return self._resolver.module(name)

    def unresolved(self, name: str, plain: object, reason: str) -> object:
        """The plain value, with a warning the first time.

        Raises:
            UnresolvedTypeError: unknown types are refused.
        """
        name, reason = name[:_MAX_TEXT], (reason or _RESOLVE)[:_MAX_TEXT]
        if self._refuse_unknown:
            raise UnresolvedTypeError(f"{name}: {reason}")
        if name not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(name)
            warnings.warn(
                f"{name} comes back as plain JSON: {reason}", UnresolvedTypeWarning, stacklevel=2
            )
        return plain
