"""Functions that find out whether a dict has a form, each made for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer.forms import (
    LEAVES,
    MOST,
    MOST_NESTED,
    SETTLED,
    DictForm,
    LeafForm,
    ListForm,
    ScalarForm,
    is_exact,
)
from taskiq_pg_json.serializer.text import EXACT_BELOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskiq_pg_json.serializer.forms import Form

    Matches = Callable[[Any], bool]

FEW = 4
"""Values of a list that may be one long text, again and again."""
_MUCH_TEXT = 1_024


def matcher(form: DictForm) -> Matches:
    """Return the function that says whether a dict has this form, given that it has its keys.

    In text of its own it takes a third of the time of a walk from form to form.
    """
    return _Source(form).compiled()


class _Source:
    """The text of such a function; what comes from the data are its constants, never its text."""

    def __init__(self, form: DictForm) -> None:
        self._lines = ["def matches(value):"]
        self._names: dict[str, Any] = {
            "settled": SETTLED,
            "exact_below": EXACT_BELOW,
            "is_exact": is_exact,
            "is_long": is_long,
        }
        self._variables = 0
        self._unpack("value", form, "    ")
        self._lines.append("    return True")

    def compiled(self) -> Matches:
        """The function."""
        exec("\n".join(self._lines), self._names)  # noqa: S102 - text of this class alone
        matches: Matches = self._names["matches"]
        return matches

    def _unpack(self, name: str, form: DictForm, indent: str) -> None:
        """Look at the values of a dict whose keys have been looked at."""
        if not form.names:
            return
        children = [(self._variable(), child) for child in form.children]
        variables = ", ".join(child for child, _ in children)
        self._lines.append(f"{indent}{variables}, = {name}.values()")
        conditions = [self._condition(child, of) for child, of in children]
        if len(children) > MOST_NESTED:
            conditions.append(f"not is_long({children[0][0]})")
        self._require(conditions, indent)
        for child, of in children:
            self._inside(child, of, indent)

    def _condition(self, name: str, form: Form) -> str:
        """What is asked of a value before it is looked into."""
        if isinstance(form, ScalarForm):
            positive = f"type({name}) is float and 0.0 < {name} < exact_below"  # as most are
            return f"(type({name}) in settled or {positive} or is_exact({name}))"
        if isinstance(form, LeafForm):
            check = LEAVES[form.cls][1]
            condition = f"type({name}) is {self._constant(form.cls)}"
            return (
                condition if check is None else f"{condition} and {self._constant(check)}({name})"
            )
        if isinstance(form, DictForm):
            return f"type({name}) is dict and tuple({name}) == {self._constant(form.names)}"
        is_nested = isinstance(form.item, DictForm) and form.item.is_nested
        most = MOST_NESTED if is_nested else MOST
        least = 0 if form.node is None else 1  # an empty one has no node
        return f"type({name}) is list and {least} <= len({name}) <= {most}"

    def _inside(self, name: str, form: Form, indent: str) -> None:
        """Look into a container."""
        if isinstance(form, DictForm):
            self._unpack(name, form, indent)
        if isinstance(form, ListForm):
            first = f"{name}[0].values()" if isinstance(form.item, DictForm) else f"{name}[:1]"
            self._require([f"(len({name}) <= {FEW} or not any(map(is_long, {first})))"], indent)
            item = self._variable()
            self._lines.append(f"{indent}for {item} in {name}:")
            self._require([self._condition(item, form.item)], indent + "    ")
            self._inside(item, form.item, indent + "    ")

    def _require(self, conditions: Iterable[str], indent: str) -> None:
        self._lines.append(f"{indent}if not ({' and '.join(conditions)}):")
        self._lines.append(f"{indent}    return False")

    def _variable(self) -> str:
        self._variables += 1
        return f"v{self._variables}"

    def _constant(self, value: object) -> str:
        name = f"k{len(self._names)}"
        self._names[name] = value
        return name


def is_long(value: object) -> bool:
    """Whether it is a long text, which may be the same again and again where it heads many."""
    return type(value) is str and len(value) > _MUCH_TEXT
