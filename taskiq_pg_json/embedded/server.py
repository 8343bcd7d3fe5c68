"""The server of one directory: made, started, joined and stopped.

In the directory: ``data`` (PGDATA, with the socket and ``server.log``) and the lock files ``users``
and ``starting``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from psycopg.pq import PGconn, Ping

from taskiq_pg_json.embedded import guard, host
from taskiq_pg_json.embedded.users import Users
from taskiq_pg_json.errors import ConfigurationError, EmbeddedPostgresError

if TYPE_CHECKING:
    from typing_extensions import Self

_SUPERUSER = "postgres"
_INITDB = ["initdb", "--encoding=UTF8", "--no-locale", f"--username={_SUPERUSER}"]
# Nobody else reaches the socket, but all users of the machine what listens on TCP. Windows has no
# other way.
_TCP_AUTH = "trust" if os.name == "nt" else "scram-sha-256"
_AUTH = ["--auth-local=trust", f"--auth-host={_TCP_AUTH}"]
_UNICODE = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
"""Case as Unicode has it, wherever the machine's locales are; PostgreSQL 17 and newer know it."""

_LOG = os.path.join("data", "server.log")  # noqa: PTH118 - pg_ctl takes text
_START_TIMEOUT = 60  # seconds
_START = ["pg_ctl", "start", "-D", "data", "-l", _LOG, "-w", "-t", str(_START_TIMEOUT)]
_STOP = ["pg_ctl", "stop", "-D", "data", "-w", "-m", "fast"]
_TAIL = 20  # lines of the log that an error quotes

_process_lock = threading.RLock()


class EmbeddedPostgres:
    """The PostgreSQL server of one directory: a context manager, and a callable dsn.

    Entering or calling it starts the server if it is not running; processes share a server by
    naming the same directory. The server stops when the last user of all processes leaves: at the
    end of ``with``, at ``stop()``, or when the process ends, however it ends. The data stay.

    Connections come over a unix socket that only the server's own user (and root) can reach; on
    Windows over loopback TCP on a free port. As root the server runs as the user ``postgres`` if
    there is one, else as ``nobody``, who is let pass the directories above.

    Args:
        path: the directory; made when missing, in a parent that must exist.
        binaries: the directory of another PostgreSQL's programs, such as
            ``/usr/lib/postgresql/15/bin``; by default the extra's.
        settings: server settings, such as ``{"fsync": "off"}``, for when this object starts it.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        binaries: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self.path = Path(path).expanduser().resolve()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"path={path!r}: give the path of a directory ({error})."
            ) from error
        if not isinstance(settings, Mapping | None):
            raise ConfigurationError(f"settings={settings!r}: give a dict of server settings.")
        self._data = self.path / "data"
        self._binaries = binaries
        self._settings = dict(settings or {})
        self._dsn = ""
        self._used_by: int | None = None  # a process id: a forked child has not started it
        self._at_exit: Finalize | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __call__(self) -> str:
        """Start the server if need be and return its dsn."""
        self.start()
        return self._dsn

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """The connection URL of the server, as its superuser.

        Raises:
            EmbeddedPostgresError: it was not started here.
        """
        if self._used_by != os.getpid():
            raise EmbeddedPostgresError(
                f"{self!r} is not started: use it in a `with` block, call it, or call start()."
            )
        return self._dsn

    @property
    def binaries(self) -> Path:
        """The directory of the server's programs, ``psql`` and ``pg_dump`` among them."""
        return Path(self._binaries or host.extra_binaries()).resolve()

    def start(self) -> None:
        """Start the server, or join the one that runs; nothing happens if that was done.

        Raises:
            EmbeddedPostgresError: the extra is missing, the directory cannot be used or the server
                does not start; the message ends with its log.
        """
        with _process_lock:
            if self._used_by == os.getpid():
                return
            self._check()
            with Users.of(self.path).joining():
                self._ensure_running()
            self._used_by = os.getpid()
            # Not atexit: these run at the end of multiprocessing's children too.
            self._at_exit = Finalize(None, self.stop, exitpriority=-1)

    def stop(self) -> None:
        """Leave the server, which stops if nobody else uses it; nothing happens if not started."""
        with _process_lock:
            if self._used_by != os.getpid():
                return
            self._used_by = None
            if self._at_exit is not None:
                self._at_exit.cancel()
            if not self.path.exists():
                return
            with Users.of(self.path).leaving() as last:
                if last:
                    self._stop_server()

    def _check(self) -> None:
        if not self.path.parent.is_dir():
            raise EmbeddedPostgresError(
                f"{self!r} cannot be made: {self.path.parent} is no directory. Make it first, or "
                f"give a path in one that exists."
            )
        if self.path.exists() and not self.path.is_dir():
            raise EmbeddedPostgresError(f"{self!r} is a file: give the path of a directory.")
        if not self._program("postgres").exists():
            raise EmbeddedPostgresError(
                f"{self!r} cannot start: there is no PostgreSQL server in {self.binaries}."
            )
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as exc:
            raise EmbeddedPostgresError(f"{self!r} cannot be made: {exc}") from exc

    def _program(self, name: str) -> Path:
        return self.binaries / (f"{name}.exe" if os.name == "nt" else name)

    def _ensure_running(self) -> None:
        user = host.server_user(self._data)
        if user is not None:
            host.open_the_way(self._data)
            host.open_the_way(self._program("postgres"))
        if not self._data.exists():
            self._initialise(user)
        self._dsn = self._read_dsn()
        if not self._dsn or not _answers(self._dsn):
            self._start_server(user)
            self._dsn = self._read_dsn()

    def _initialise(self, user: int | None) -> None:
        """Make the data beside their place, so that nobody takes half-made ones for data."""
        unfinished = self.path / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if user is not None:
            os.chown(unfinished, user, host.user_group(user))
        self._run([*_INITDB, *_AUTH, *self._locale(), "-D", unfinished.name], user)
        unfinished.rename(self._data)

    def _locale(self) -> list[str]:
        try:
            usage = subprocess.run(  # noqa: S603 - PostgreSQL's own program
                [self._program("initdb"), "--help"], check=False, capture_output=True
            )
        except OSError:  # which running it in earnest tells of
            return []
        return _UNICODE if b"--builtin-locale" in usage.stdout else []

    def _start_server(self, user: int | None) -> None:
        if os.name == "nt":
            options = ["-h", "127.0.0.1", "-p", str(host.free_port())]
        else:
            options = ["-h", "", "-p", "5432", "-k", str(self._make_socket_directory(user))]
        for name, value in self._settings.items():
            options += ["-c", f"{name}={value}"]
        self._run([*_START, "-o", shlex.join(options)], user)
        if os.name != "nt":
            self._start_guard(user)

    def _make_socket_directory(self, user: int | None) -> Path:
        directory = host.socket_directory(self._data)
        if directory == self._data:
            return directory
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if wrong := host.wrong_directory(directory, {os.geteuid(), user}):
            raise EmbeddedPostgresError(
                f"{directory}, where the socket of {self!r} goes, {wrong}. Remove it, or give a "
                "shorter path, without special characters: then the socket is among the data."
            )
        if user is not None:
            host.open_the_way(directory)
            os.chown(directory, user, host.user_group(user), follow_symlinks=False)
        return directory

    def _start_guard(self, user: int | None) -> None:
        guarded = [str(self.path), "-" if user is None else str(user)]
        stop = [str(self._program(_STOP[0])), *_STOP[1:]]
        subprocess.run(  # noqa: S603 - this interpreter, our own script
            [sys.executable, "-I", "-S", guard.__file__, *guarded, *stop],
            check=True,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _stop_server(self) -> None:
        dsn = self._read_dsn()
        if dsn and _ping(dsn) is not Ping.NO_RESPONSE:
            self._run(_STOP, host.server_user(self._data))
        directory = host.socket_directory(self._data)
        if directory != self._data and directory.exists():
            directory.rmdir()

    def _read_dsn(self) -> str:
        """The address that ``postmaster.pid`` tells, of a server that runs or has crashed."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            port, directory, address = lines[3:6]
        except (FileNotFoundError, ValueError):
            return ""
        if directory:
            return f"postgresql://{_SUPERUSER}@/postgres?host={quote(directory, '')}&port={port}"
        return f"postgresql://{_SUPERUSER}@{address}:{port}/postgres"

    def _run(self, command: list[str], user: int | None) -> None:
        """Run a program in the directory: its shell sees relative paths, which need no quotes."""
        environment = {name: os.environ[name] for name in os.environ if not name.startswith("PG")}
        with tempfile.TemporaryFile("w+", errors="replace") as output:  # the server holds it open
            try:
                subprocess.run(  # noqa: S603 - PostgreSQL's own programs
                    [self._program(command[0]), *command[1:]],
                    check=True,
                    cwd=self.path,
                    env={**environment, "LC_ALL": "C"},
                    user=user,
                    group=None if user is None else host.user_group(user),
                    extra_groups=None if user is None else [],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                output.seek(0)
                raise EmbeddedPostgresError(
                    f"{self!r}: {' '.join(command[:2])} failed.\n{exc}\n{output.read()}"
                    f"{self._log_tail()}"
                ) from exc

    def _log_tail(self) -> str:
        log = self.path / _LOG
        if not log.exists():
            return ""
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join([f"The end of {log}:", *lines])


def _answers(dsn: str) -> bool:
    """Whether a server is there, once it is ready: one that replays its log refuses for a while."""
    deadline = time.monotonic() + _START_TIMEOUT
    while (ping := _ping(dsn)) is Ping.REJECT and time.monotonic() < deadline:
        time.sleep(0.1)
    return ping is Ping.OK


def _ping(dsn: str) -> Ping:
    return Ping(PGconn.ping(dsn.encode()))
