"""The tables of a run: for a terminal, and as Markdown."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from contenders import OURS
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from measure import Case, Measurement
    from results import Comparison, Results
    from targets import Verdict

_WIDTH = 150  # of the tables where there is no terminal to ask


def print_report(results: Results, verdicts: Sequence[Verdict]) -> None:
    """Print all tables to standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for table in _tables(results, verdicts, box.SIMPLE_HEAD):
        console.print(table)


def write_markdown(results: Results, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write where it was measured, and the same tables, as Markdown."""
    lines = [f"- {name}: {value}" for name, value in results.environment.items()]
    console = Console(file=StringIO(), width=1000)
    for table in _tables(results, verdicts, box.MARKDOWN):
        lines += ["", f"### {table.title}"]
        table.title = None
        with console.capture() as capture:
            console.print(table)
        lines += [line.rstrip() for line in capture.get().rstrip().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def _tables(results: Results, verdicts: Sequence[Verdict], style: box.Box) -> Iterator[Table]:
    single: list[Case] = []
    for operation in dict.fromkeys(case.operation for case in results.cases):
        cases = results.loads(operation)
        if len(cases) == 1:
            single += cases
        else:
            headings = [case.load for case in cases]
            title = f"{operation}: size of the result at concurrency"
            yield _contender_table(results, title, cases, headings, style)
    title = "Progress, waiting, whole applications and costs"
    yield _contender_table(results, title, single, list(map(str, single)), style)
    yield _ratio_table(results, style)
    yield _verdict_table(verdicts, style)


def _contender_table(
    results: Results, title: str, cases: Sequence[Case], headings: Sequence[str], style: box.Box
) -> Table:
    """A row for each contender, a column for each case."""
    table = Table(box=style, title=title)
    table.add_column(no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in results.contenders:
        found = [results.find(case, name) for case in cases]
        if any(found):
            table.add_row(name, *("" if m is None else _figure(m.value, m.unit) for m in found))
    return table


def _ratio_table(results: Results, style: box.Box) -> Table:
    """This project beside the best peer and the floor."""
    table = Table(box=style, title="How many times better than the best peer, and the floor")
    table.add_column(no_wrap=True)
    for heading in (OURS, "best peer", "ratio", "best on PostgreSQL", "ratio", "floor", "ratio"):
        table.add_column(heading, justify="right", no_wrap=heading in {OURS, "ratio"})
    for case in results.cases:
        ours = results.find(case)
        others = (
            results.best_peer(case),
            results.best_peer(case, postgres_only=True),
            results.floor(case),
        )
        if ours is not None and any(others):
            figures = [figure for other in others for figure in _compared(other, ours)]
            table.add_row(str(case), _figure(ours.value, ours.unit), *figures)
    return table


def _compared(other: Comparison | None, ours: Measurement) -> tuple[str, str]:
    if other is None:
        return "", ""
    short = other.contender.removeprefix("taskiq-").partition(":")[0]
    return f"{short} {_figure(other.value, ours.unit)}", f"{other.ratio:.2f}x"


def _verdict_table(verdicts: Sequence[Verdict], style: box.Box) -> Table:
    """The promises."""
    table = Table("", "against", box=style, title="Targets")
    for heading in ("target", "found", ""):
        table.add_column(heading, justify="right")
    for verdict in verdicts:
        table.add_row(
            verdict.promise,
            verdict.against,
            _figure(verdict.target, verdict.unit),
            _figure(verdict.found, verdict.unit),
            "[green]reached[/]" if verdict.kept else "[red]not reached[/]",
        )
    return table


def _figure(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit in {'/s', 'x'} else ' '}{unit}"
