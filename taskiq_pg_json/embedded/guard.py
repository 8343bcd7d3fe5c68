"""Stops an embedded server that nobody uses any more, because its last user was killed.

A script of the standard library alone, which starts in a process of its own:
``guard.py <directory> <user id or "-"> <command that stops the server> …``
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_INTERVAL = 0.25  # seconds


def main(directory: Path, user: int | None, stop: list[str]) -> None:
    """Wait until this server has stopped, or nobody uses it any more: then stop it."""
    import fcntl  # noqa: PLC0415 - Windows has none, and no guard

    server = _running_server(directory)
    while server is not None and _running_server(directory) == server:
        with suppress(OSError), (directory / "users").open("r+") as users:
            fcntl.lockf(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            groups: list[int] | None = [] if user is not None else None
            subprocess.run(stop, check=False, cwd=directory, user=user, extra_groups=groups)  # noqa: S603 - pg_ctl
            return
        time.sleep(_INTERVAL)
    if server is not None and not (directory / "data").exists():  # deleted under it
        with suppress(ProcessLookupError):
            os.kill(server[0], signal.SIGINT)


def _running_server(directory: Path) -> tuple[int, str] | None:
    """Its process id and when it started; None when there is none."""
    try:
        process_id, _, started, *_ = (directory / "data" / "postmaster.pid").read_text().split("\n")
    except (OSError, ValueError):
        return None
    return int(process_id), started


if __name__ == "__main__" and os.fork() == 0:  # the starter does not wait for us
    os.setsid()
    _directory, _user, *_stop = sys.argv[1:]
    main(Path(_directory), None if _user == "-" else int(_user), _stop)
