"""The classes that an application names: their stored names, old names, and own codecs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.serializer.kinds import is_mapped, kind_of
from taskiq_pg_json.serializer.plan import BUILTINS

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


@dataclass(frozen=True)
class Registration:
    """One registered class; ``encode`` and ``decode`` are both given or both None."""

    cls: type
    name: str
    encode: Callable[[Any], object] | None = None
    decode: Callable[[Any], object] | None = None
    old_fields: Mapping[str, str] = field(default_factory=dict)


class TypeRegistry:
    """Names for the classes in stored rows, and codecs for those that have none.

    A registered class is found under its stored name, its old names, and ``module:QualName``.
    """

    def __init__(self) -> None:
        self._by_class: dict[type, Registration] = {}
        self._by_name: dict[str, Registration] = {}
        self.version = 0

    def register(
        self,
        cls: type[_T],
        *,
        name: str | None = None,
        encode: Callable[[_T], object] | None = None,
        decode: Callable[[Any], _T] | None = None,
        old_names: Iterable[str] = (),
        old_fields: Mapping[str, str] | None = None,
    ) -> type[_T]:
        """Register a class; returns it.

        Args:
            cls: instances of exactly this class are meant.
            name: its stored name, for good; ``module:QualName`` by default.
            encode: turns an instance into a value that the serializer can store, best one that
                reads well in SQL. Without it the class is stored by its fields.
            decode: turns that value into an instance again.
            old_names: names under which older rows hold it, as ``module:QualName``.
            old_fields: renamed fields, old name to new.

        Raises:
            ConfigurationError: an argument is of the wrong type, the name is taken, one of
                ``encode`` and ``decode`` is missing, the class needs them, or none can take the
                place of what it has.
        """
        if not isinstance(cls, type):
            raise ConfigurationError(f"{cls!r} is no class: give the class itself.")
        natural = f"{cls.__module__}:{cls.__qualname__}"
        if name is not None and not isinstance(name, str):
            raise ConfigurationError(f"{natural}: name={name!r}: give a text.")
        old_names = _checked_names(natural, old_names)
        old_fields = _checked_fields(natural, old_fields)
        for parameter, codec in (("encode", encode), ("decode", decode)):
            if codec is not None and not callable(codec):
                raise ConfigurationError(f"{natural}: {parameter}={codec!r}: give a function.")
        if cls in BUILTINS:
            raise ConfigurationError(
                f"{natural} is stored as JSON and comes back as it was: no codec takes the place of"
                " that. Register a subclass, or a class of yours that holds the value."
            )
        if (encode is None) != (decode is None):
            raise ConfigurationError(
                f"{natural}: give both encode= and decode=, or neither for a class with fields."
            )
        if encode is None and kind_of(cls) is None:
            raise ConfigurationError(
                f"{natural} is mapped by SQLAlchemy, and its instances are pickled with what that"
                " knows of them: leave it unregistered, or give encode= and decode=."
                if is_mapped(cls)
                else f"{natural} has no fields that could be stored: give encode= and decode=."
            )
        entry = Registration(cls, name or natural, encode, decode, old_fields)
        names = {entry.name, natural, *old_names}
        for taken in names & self._by_name.keys():
            if self._by_name[taken].cls is not cls:
                raise ConfigurationError(
                    f"{taken!r} is the stored name of {self._by_name[taken].cls!r} already:"
                    f" give {natural} another name=."
                )
        self._by_class[cls] = entry
        self._by_name.update(dict.fromkeys(names, entry))
        self.version += 1
        return cls

    def of_class(self, cls: type) -> Registration | None:
        """The registration of a class."""
        return self._by_class.get(cls)

    def name_of(self, cls: type) -> str | None:
        """The stored name of a class; None for one that is not registered."""
        entry = self._by_class.get(cls)
        return None if entry is None else entry.name

    def of_name(self, name: str) -> Registration | None:
        """The registration that has, or once had, a stored name."""
        return self._by_name.get(name)


def _checked_names(cls: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ConfigurationError(
            f"{cls}: old_names={names!r} is one text: give a list, [{names!r}]."
        )
    found = list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in found):
        raise ConfigurationError(f"{cls}: old_names={names!r}: give a list of names, as text.")
    return found


def _checked_fields(cls: str, fields: Mapping[str, str] | None) -> dict[str, str]:
    found = {} if fields is None else fields
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) for name in (*found, *found.values())
    ):
        raise ConfigurationError(
            f"{cls}: old_fields={fields!r}: give a dict of names, the old one to the new one."
        )
    return dict(found)
