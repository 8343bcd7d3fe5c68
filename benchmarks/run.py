"""Measure this project beside its peers and the floor: ``python benchmarks/run.py``.

Starts PostgreSQL (and Redis, where ``redis-server`` is installed), runs every part, each within
five minutes, prints the tables and writes them to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from contenders import Contender, ours, taskiq_postgres, taskiq_redis
from end_to_end import measure_end_to_end
from floor import Floor
from footprint import measure_footprint
from latency import measure_latency
from measure import Limit, Measurement
from plan import FULL, QUICK, WHOLE, Plan
from progress_updates import measure_bloat, measure_progress
from report import print_report, write_markdown
from results import Results
from servers import Server, running_postgres, running_redis
from targets import verdicts
from throughput import measure_throughput

if TYPE_CHECKING:
    from contenders import BackendContender

Part = Callable[[Limit], Awaitable[list[Measurement]]]

_RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("taskiq", "taskiq-postgres", "taskiq-redis", "psycopg", "asyncpg", "psqlpy", "redis")


async def measure(
    plan: Plan, names: Collection[str], postgres: Server, redis: Server | None
) -> Results:
    """Run parts of the plan, all contenders started."""
    us = ours(postgres)
    peers: list[BackendContender] = [*taskiq_postgres(postgres)]
    if redis is not None:
        peers += taskiq_redis(redis)
    floor = Floor(postgres, us.tables)
    everyone: list[Contender] = [us, *peers, floor]
    # How results are serialized is told apart by the throughput; elsewhere one of each will do.
    backends = [us, *(peer for peer in peers if not peer.name.endswith("pickle"))]
    parts: dict[str, Part] = {
        **{
            name: partial(measure_throughput, everyone, cells) for name, cells in plan.cells.items()
        },
        "progress": lambda limit: measure_progress(
            [*backends, floor], plan.progress_tasks, plan.progress_updates, limit
        ),
        "bloat": lambda limit: measure_bloat(us, plan.progress_tasks, plan.bloat_updates, limit),
        "latency": lambda limit: measure_latency(backends, plan.latencies, limit),
        "end-to-end": lambda limit: measure_end_to_end(backends, plan.tasks, plan.rounds, limit),
        "footprint": lambda limit: measure_footprint(everyone, plan.footprint_results, limit),
    }
    measurements: list[Measurement] = []
    async with AsyncExitStack() as stack:
        for contender in everyone:  # the floor last: its tables copy ours
            await contender.start()
            stack.push_async_callback(contender.stop)
        gc.freeze()  # or each sample would wait for a look at all that was imported
        for name in names:
            start = time.perf_counter()
            measurements += await parts[name](Limit(plan.seconds[name]))
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return Results(everyone, measurements, dict(_environment(postgres, redis)))


def _environment(postgres: Server, redis: Server | None) -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "platform", platform.platform()
    yield "processors", str(os.cpu_count())
    yield "load average", f"{os.getloadavg()[0]:.2f}"
    redis_version = redis.version if redis else "no redis-server on this machine"
    yield "servers", f"{postgres.version}, {redis_version}"
    for package in _PACKAGES:
        yield package, version(package)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"what to measure: {', '.join(WHOLE.seconds)} (default all)",
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="a smoke run of a few seconds")
    extent.add_argument(
        "--full",
        action="store_true",
        help="a million progress updates and 2,000 large results at once, however long they take",
    )
    parser.add_argument(
        "--progress-updates",
        type=int,
        metavar="N",
        help=f"updates before the progress table is weighed (default {WHOLE.bloat_updates:,})",
    )
    parser.add_argument(
        "--postgres",
        type=Path,
        metavar="DIRECTORY",
        help="the programs of another PostgreSQL, such as /usr/lib/postgresql/15/bin",
    )
    parser.add_argument("--output", type=Path, default=_RESULTS, metavar="DIRECTORY")
    arguments = parser.parse_args()
    plan = _plan(arguments)
    if unknown := set(arguments.parts) - set(plan.seconds):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(plan.seconds)}")
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL if arguments.full else WHOLE
    if arguments.progress_updates is not None:
        plan = replace(plan, bloat_updates=arguments.progress_updates)
    return plan


def main() -> None:
    arguments = _arguments()
    plan = _plan(arguments)
    logging.disable(logging.ERROR)  # a result that is lost shows in the tables
    with (
        tempfile.TemporaryDirectory() as directory,
        running_postgres(Path(directory), arguments.postgres) as postgres,
        running_redis(Path(directory)) as redis,
    ):
        names = arguments.parts or plan.seconds
        results = asyncio.run(measure(plan, names, postgres, redis))
    judged = list(verdicts(results))
    for name, value in results.environment.items():
        print(f"{name}: {value}")
    print_report(results, judged)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results.write_json(arguments.output / "latest.json")
    write_markdown(results, judged, arguments.output / "latest.md")


if __name__ == "__main__":
    main()
