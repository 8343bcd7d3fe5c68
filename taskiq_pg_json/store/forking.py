"""Tells what was started before a fork that it belongs to the parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref


class Inherited(Protocol):
    """What a forked process must not use."""

    def leave_to_parent(self) -> None:
        """Forget what belongs to the process that this one was forked from."""


# Without callbacks, which Python 3.13 may call while it takes modules apart.
_watched: list[ref[Inherited]] = []


def watch(inherited: Inherited) -> None:
    """Have something left to the parent in every process that is forked from this one."""
    _watched[:] = [*(known for known in _watched if known() is not None), ref(inherited)]


def _leave_all() -> None:
    for known in tuple(_watched):
        inherited = known()
        if inherited is not None:
            inherited.leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_all)
