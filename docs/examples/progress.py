"""A task reports its progress, and whoever sent it reads that while it runs.

Run it with ``python docs/examples/progress.py``. It starts the embedded server in ``./.pg``;
``TASKIQ_PG_JSON_DSN`` names a server of your own.
"""

import asyncio
import os
from typing import Any

from taskiq import InMemoryBroker, TaskiqDepends
from taskiq.depends.progress_tracker import ProgressTracker, TaskState

from taskiq_pg_json import JsonbResultBackend
from taskiq_pg_json.embedded import EmbeddedPostgres

dsn = os.environ.get("TASKIQ_PG_JSON_DSN") or EmbeddedPostgres("./.pg")
broker = InMemoryBroker().with_result_backend(JsonbResultBackend[int](dsn))


@broker.task(task_name="solve_all_problems")
async def solve_all_problems(
    progress: ProgressTracker[Any] = TaskiqDepends(),
) -> int:
    meta = {"message": "Starting to solve problems", "total": 10}
    await progress.set_progress(TaskState.STARTED, meta)
    await asyncio.sleep(1)

    # A state may be any word. The meta replaces the former one: repeat in it what shall stay.
    await progress.set_progress("halfway", meta | {"message": "Half are solved", "current": 5})
    await asyncio.sleep(1)
    return 42


async def main() -> None:
    await broker.startup()
    task = await solve_all_problems.kiq()
    await asyncio.sleep(0.5)
    print(await task.get_progress())
    await asyncio.sleep(1)
    print(await task.get_progress())
    print(await task.wait_result(timeout=10))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
