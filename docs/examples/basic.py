"""A task returns 42, and its row in ``taskiq_results`` is one that a person can read.

Run it with ``python docs/examples/basic.py``. It starts the embedded server in ``./.pg``;
``TASKIQ_PG_JSON_DSN`` names a server of your own.
"""

import asyncio
import os

from taskiq import InMemoryBroker

from taskiq_pg_json import JsonbResultBackend
from taskiq_pg_json.embedded import EmbeddedPostgres

dsn = os.environ.get("TASKIQ_PG_JSON_DSN") or EmbeddedPostgres("./.pg")
backend = JsonbResultBackend[int](dsn)
broker = InMemoryBroker().with_result_backend(backend)


@broker.task(task_name="answer_for_everything")
async def answer_for_everything() -> int:
    await asyncio.sleep(0.1)
    return 42


async def main() -> None:
    await broker.startup()
    task = await answer_for_everything.kiq()
    print(await task.wait_result(timeout=10))

    row = await backend.store.get(task.task_id)
    print(f"{row.status}: {row.return_value}, at {row.finished_at}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
