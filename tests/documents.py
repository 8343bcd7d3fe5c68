"""Runs what stands in the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

ROOT = Path(__file__).resolve().parent.parent
DSN = '"postgresql://localhost/shop"'
"""How the documentation writes the dsn of a reader's own server."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks that name their language."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text("utf-8"))]


def python_of(page: Path) -> tuple[str, str]:
    """The page's Python, one block after the other, and what the page says that it prints."""
    found = blocks(page)
    code = "\n".join(block.text for block in found if block.language == "python")
    printed = "".join(
        block.text
        for before, block in pairwise(found)
        if before.language == "python" and block.language == "text"
    )
    return code, printed


def sql_of(page: Path) -> list[str]:
    """The page's SQL, a block an item."""
    return [block.text for block in blocks(page) if block.language == "sql"]


def run(script: Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a script as a reader would; returns what it prints, and raises if it complains."""
    ran = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", script],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return ran.stdout


def run_page(page: Path, dsn: str, cwd: Path) -> str:
    """Run a page's Python on a server, as one script; returns what it prints."""
    code, _ = python_of(page)
    script = cwd / "page.py"
    script.write_text(code.replace(DSN, repr(dsn)), "utf-8")
    return run(script, cwd)


def rows(dsn: str, query: str) -> list[dict[str, object]]:
    """Run one statement; returns its rows, if it has any."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def inside(dsn: str, schema: str) -> str:
    """The dsn with a schema as the search path."""
    return make_conninfo(dsn, options=f"-csearch_path={schema}")
