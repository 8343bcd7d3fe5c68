from __future__ import annotations

import copy
import inspect
import pickle
import sys

import pytest

from taskiq_pg_json import RemoteError, ResultIsMissingError, WaitTimeoutError, errors

ARGUMENTS = {
    "message": "it broke",
    "position": 3,
    "task_id": "t",
    "path": "return_value.items[3]",
    "type_name": "shop:Invoice",
    "plain": {"a": [1]},
    "pending": ("a", "b"),
    "timeout": 1.5,
}
WAYS = {
    "copied": copy.copy,
    "deepcopied": copy.deepcopy,
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
    "pickled as text": lambda error: pickle.loads(pickle.dumps(error, 0)),
}


def made(cls):
    """An error of the class, with all that its ``__init__`` takes."""
    if cls is RemoteError:
        return RemoteError.of("shop", "PaymentError", "it broke", {"a": [1]})
    if cls is ResultIsMissingError:
        return cls(message="it broke")
    if not inspect.isfunction(cls.__init__):  # but Python's own
        return cls("it broke")
    return cls(**{name: ARGUMENTS[name] for name in inspect.signature(cls).parameters})


def said(error):
    """All that an error says of itself."""
    names = [name for name in dir(error) if not name.startswith("__")]
    attributes = {name: getattr(error, name, None) for name in names}
    fields = {name: value for name, value in attributes.items() if not callable(value)}
    return type(error), str(error), repr(error), error.args, vars(error), fields


OURS = [cls for cls in vars(errors).values() if inspect.isclass(cls)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("cls", [*OURS, ResultIsMissingError])
def test_every_error_is_itself_where_it_was_copied_or_pickled(cls, way):
    error = made(cls)
    error.order_id = 7
    if sys.version_info >= (3, 11):
        error.add_note("while the shop was closed")
    assert said(way(error)) == said(error)


def test_what_was_waited_for_in_vain_is_a_tuple_however_it_was_given():
    assert WaitTimeoutError(["a", "b"], 1.0).pending == ("a", "b")
