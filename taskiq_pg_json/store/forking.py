"""Tells what was started before a fork that it belongs to the parent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable

_listeners: list[WeakMethod[Callable[[], None]]] = []


def after_fork(call: Callable[[], None]) -> None:
    """Have a method called in every process forked from this one, while its object lives."""
    _listeners.append(WeakMethod(call, _listeners.remove))


def _tell() -> None:
    for listener in tuple(_listeners):
        call = listener()
        if call is not None:
            call()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_tell)
