"""The forms that values have had: a task returns values of few, and each is worked out once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer.forms import MOST, DictForm, UnfitError, form_of
from taskiq_pg_json.serializer.jsontext import dumps
from taskiq_pg_json.serializer.matching import matcher
from taskiq_pg_json.serializer.nodes import VERSION

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.forms import Layouts

OFTEN = 16
"""Values of unknown form, of the same keys, after which one is looked at for its form."""
MOST_FORMS = 4
"""Forms that are known of values of the same keys."""
_MOST_KEYS = 1_024
"""Tuples of keys that are remembered."""


class KnownForm:
    """A form that dicts have.

    Attributes:
        matches: whether a dict that has its keys has this form.
        node: what the sidecar says of such a dict.
    """

    __slots__ = ("_sidecars", "matches", "node")

    def __init__(self, form: DictForm) -> None:
        self.matches = matcher(form)
        self.node = form.node
        self._sidecars: dict[str, bytes] = {}

    def sidecar(self, column: str) -> bytes:
        """The sidecar of a row in which it speaks of this column alone."""
        found = self._sidecars.get(column)
        if found is None:
            found = self._sidecars[column] = dumps({"v": VERSION, column: self.node})
        return found


class Forms:
    """The forms that are known of dicts, by their keys.

    Args:
        layouts: what a node says of keys, which the walk has found out.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._known: dict[tuple[object, ...], list[KnownForm]] = {}
        self._met: dict[tuple[object, ...], int] = {}

    def find(self, value: dict[Any, Any]) -> KnownForm | None:
        """The form of a dict, if it is known."""
        names = tuple(value)
        for known in self._known.get(names, ()):
            if known.matches(value):
                return known
        self._meet(names, value)
        return None

    def _meet(self, names: tuple[object, ...], value: dict[Any, Any]) -> None:
        """Count the dict, and make its form known where there have been many."""
        if len(names) > MOST or names not in self._layouts:
            return
        if len(self._met) >= _MOST_KEYS:
            self._met.clear()
            self._known.clear()
        met = self._met[names] = self._met.get(names, 0) + 1
        known = self._known.get(names, [])
        if met % OFTEN or len(known) >= MOST_FORMS:
            return
        try:
            form = form_of(value, self._layouts)
        except UnfitError:
            return
        if isinstance(form, DictForm):
            self._known[names] = [*known, KnownForm(form)]
