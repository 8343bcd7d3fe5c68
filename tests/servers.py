"""The PostgreSQL servers that the tests run on: each test that asks for one runs on all of them."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskiq_pg_json.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

DSN_VARIABLE = "TASKIQ_PG_JSON_DSN"
EMBEDDED = "pg18"
DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = {"fsync": "off", "max_connections": "200", "log_lock_waits": "on"}


@dataclass(frozen=True)
class ServerKind:
    """A server that the tests can have: the reader's own, or one that they start."""

    name: str
    dsn: str | None = None
    binaries: Path | None = None

    def __str__(self) -> str:
        origin = DSN_VARIABLE if self.dsn else self.binaries or "embedded"
        return f"{self.name} ({origin})"


def found() -> list[ServerKind]:
    """The reader's own server if they name one; else the embedded one and all of Debian's."""
    if dsn := os.environ.get(DSN_VARIABLE):
        return [ServerKind("own", dsn=dsn)]
    kinds = [ServerKind(EMBEDDED)]
    for program in sorted(DEBIAN.glob("*/bin/postgres")):
        name = f"pg{program.parents[1].name}"
        kinds.append(
            ServerKind(f"{name}-debian" if name == EMBEDDED else name, binaries=program.parent)
        )
    return kinds


def summary() -> str:
    """What the tests ran on, and what they skipped and why."""
    kinds = found()
    servers = f"Servers: {', '.join(map(str, kinds))}"
    if any(kind.dsn or kind.binaries for kind in kinds):
        return servers
    return f"{servers}\nSkipped: Debian's PostgreSQL, for there is none in {DEBIAN}/*/bin"


@contextmanager
def running(kind: ServerKind) -> Iterator[str]:
    """The dsn of a server of that kind; if we start it, it is gone with its data afterwards."""
    if kind.dsn:
        yield kind.dsn
        return
    with (
        tempfile.TemporaryDirectory(prefix="tpj-") as directory,
        EmbeddedPostgres(
            Path(directory, kind.name), binaries=kind.binaries, settings=SETTINGS
        ) as server,
    ):
        yield server.dsn
