"""The servers that the contenders write to, started for one run and stopped after it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import psycopg

from taskiq_pg_json.embedded import EmbeddedPostgres
from taskiq_pg_json.embedded.host import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE = 10.0  # seconds that Redis may take to answer


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        dsn: its URL.
        version: its name and version.
        process: its main process.
    """

    dsn: str
    version: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """The CPU time that its processes have used so far, the ended ones included."""
        main = self.process.cpu_times()
        total = main.user + main.system + main.children_user + main.children_system
        for child in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)


@contextmanager
def running_postgres(directory: Path, binaries: Path | None = None) -> Iterator[Server]:
    """Run a new PostgreSQL with its default settings, on a unix socket.

    Its programs are in ``binaries``; where that is None, it is the embedded one.
    """
    with EmbeddedPostgres(directory / "postgres", binaries=binaries) as postgres:
        with psycopg.connect(postgres.dsn) as connection:
            row = connection.execute("SELECT version()").fetchone()
            version = " ".join(str(row and row[0]).split()[:2])
            main = psutil.Process(connection.info.backend_pid).parent()
        yield Server(postgres.dsn, version, main)


@contextmanager
def running_redis(directory: Path) -> Iterator[Server | None]:
    """Run the ``redis-server`` of this machine on a free loopback port; None if it has none."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    server = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        version = _redis_version(port)
        yield Server(f"redis://127.0.0.1:{port}", version, psutil.Process(server.pid))
    finally:
        server.terminate()
        server.wait()


def _redis_version(port: int) -> str:
    """Wait until Redis answers, and return its name and version."""
    import redis  # noqa: PLC0415 - not needed where there is no redis-server

    deadline = time.monotonic() + _PATIENCE
    with redis.Redis(port=port) as client:
        while True:
            try:
                return f"Redis {client.info('server')['redis_version']}"
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)
