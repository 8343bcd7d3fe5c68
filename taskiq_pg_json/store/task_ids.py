"""Checks task ids before they reach the server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

from taskiq_pg_json.errors import InvalidTaskIdError

MAX_TASK_ID_BYTES = 1000
"""With a name as long, what a B-tree of PostgreSQL holds: a third of a page."""


_UUID = re.compile(r"(urn:uuid:)?\{?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\}?", re.IGNORECASE)


def checked_task_id(task_id: object) -> str:
    """Return an id that a text column can hold as it is.

    Raises:
        InvalidTaskIdError: not a string, or NUL, or a lone surrogate in it, or over 1,000 bytes.
    """
    if not isinstance(task_id, str):
        if isinstance(task_id, UUID):
            return str(task_id)
        raise InvalidTaskIdError(f"task_id={task_id!r} is no str: give str(task_id).")
    if task_id.isascii() and len(task_id) <= MAX_TASK_ID_BYTES and "\0" not in task_id:
        return task_id
    try:
        size = len(task_id.encode())
    except UnicodeEncodeError as error:
        raise InvalidTaskIdError(
            f"task_id={task_id!r} is not valid Unicode text: remove its lone surrogates."
        ) from error
    if "\0" in task_id:
        raise InvalidTaskIdError(f"task_id={task_id!r} holds a NUL character: remove it.")
    if size > MAX_TASK_ID_BYTES:
        raise InvalidTaskIdError(
            f"task_id={task_id[:40]!r}… has {size} bytes, and {MAX_TASK_ID_BYTES} are the most: "
            "give a shorter one."
        )
    return task_id


def checked_uuid(task_id: object) -> str:
    """Return an id in the canonical spelling of a UUID.

    Raises:
        InvalidTaskIdError: it is no UUID in any spelling.
    """
    if isinstance(task_id, UUID):
        return str(task_id)
    # UUID() takes what int() does: signs, blanks, foreign digits.
    if _UUID.fullmatch(str(task_id)) is None:
        raise InvalidTaskIdError(
            f"task_id={task_id!r} is not a UUID, which field_for_task_id='Uuid' asks for: use "
            "'VarChar' or 'Text' for other ids."
        )
    return str(UUID(str(task_id)))


def listed(task_ids: Iterable[str]) -> list[str]:
    """Return several ids.

    Raises:
        InvalidTaskIdError: it is one, which would be taken letter by letter, or none.
    """
    if isinstance(task_ids, str | bytes):
        raise InvalidTaskIdError(f"task_ids={task_ids!r} is one id: give a list, [{task_ids!r}].")
    if not isinstance(task_ids, Iterable):
        raise InvalidTaskIdError(f"task_ids={task_ids!r}: give a list of ids.")
    return list(task_ids)
