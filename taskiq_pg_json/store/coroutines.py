"""Functions that return a coroutine without being one more around it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

if sys.version_info >= (3, 12):
    from inspect import markcoroutinefunction as coroutine_function
else:
    _FunctionT = TypeVar("_FunctionT", bound="Callable[..., Coroutine[Any, Any, object]]")

    def coroutine_function(function: _FunctionT) -> _FunctionT:
        """Have mocks and decorators take a function for the coroutine function that it stands for.

        ``asyncio.iscoroutinefunction`` alone can be told so before Python 3.12.
        """
        vars(function)["_is_coroutine"] = vars(asyncio.coroutines)["_is_coroutine"]
        return function


__all__ = ["coroutine_function"]
