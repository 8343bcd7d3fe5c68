from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import worker_app
from peers import peer_module
from psycopg import sql
from road import PROMPTLY
from taskiq import TaskiqScheduler, gather
from taskiq.api import run_scheduler_task
from taskiq.exceptions import TaskiqResultTimeoutError
from taskiq.schedule_sources import LabelScheduleSource

from taskiq_pg_json import Status

HERE = Path(__file__).parent
PATIENCE = 60  # seconds until the workers must have come up


@contextlib.contextmanager
def workers(arguments):
    """Two worker processes of the application, which are gone after the block."""
    command = [sys.executable, "-m", "taskiq", "worker", "worker_app:broker", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--app-dir", str(HERE), "--log-level", "WARNING", "--shutdown-timeout", "2"],
        env={**os.environ, worker_app.VARIABLE: json.dumps(arguments)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


@pytest.fixture(scope="module", params=["zeromq", "psycopg"])
def application(request, dsn, admin, unused_tcp_port_factory):
    """The arguments of ``worker_app.make_broker`` of an application that workers run."""
    if request.param == "psycopg":
        peer_module()
    arguments = {
        "kind": request.param,
        "dsn": dsn,
        "table_name": f"app_{uuid.uuid4().hex[:12]}",
        "port": unused_tcp_port_factory(),
    }
    with workers(arguments) as process:
        yield arguments
        assert process.poll() is None
    for suffix in ("", "_progress", "_messages"):
        table = sql.Identifier(arguments["table_name"] + suffix)
        admin.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(table))


@pytest.fixture
async def client(application):
    """A broker in this process whose workers have answered."""
    broker = worker_app.make_broker(**application)
    await broker.startup()
    deadline = time.monotonic() + PATIENCE
    answered = False
    while not answered:
        assert time.monotonic() < deadline, "no worker has answered"
        task = await broker.find_task("double").kiq(1)
        with contextlib.suppress(TaskiqResultTimeoutError):
            answered = (await task.wait_result(check_interval=0.02, timeout=0.5)).return_value == 2
    yield broker
    await broker.shutdown()


async def test_results_of_many_tasks_are_gathered(client):
    double, in_a_thread = client.find_task("double"), client.find_task("double_in_a_thread")
    tasks = [await (in_a_thread if n % 2 else double).kiq(n) for n in range(50)]
    results = await gather(*tasks, timeout=30, periodicity=0.02)
    assert [result.return_value for result in results] == [2 * n for n in range(50)]
    assert all([await task.is_ready() for task in tasks])


async def test_a_value_crosses_processes_with_its_types(client):
    task = await client.find_task("bill").kiq(7, total="12.50")
    result = await task.wait_result(**PROMPTLY)
    invoice = result.return_value["invoice"]
    assert invoice == worker_app.Invoice(7, worker_app.ORDERED_AT, Decimal("12.50"))
    assert invoice.at.utcoffset() == worker_app.ORDERED_AT.utcoffset()
    assert str(invoice.total) == "12.50"


async def test_an_error_crosses_processes_with_its_class_and_its_traceback(client):
    task = await client.find_task("sell").kiq("bolt")
    result = await task.wait_result(**PROMPTLY)
    assert result.is_err
    assert type(result.error) is worker_app.OutOfStockError
    assert (result.error.item, result.error.left, str(result.error)) == ("bolt", 0, "bolt: 0 left")
    with pytest.raises(worker_app.OutOfStockError) as caught:
        result.raise_for_error()
    assert "worker_app.py" in "".join(str(entry.path) for entry in caught.traceback)


async def test_ids_and_labels_of_ones_own_reach_the_row(client):
    task_id = f"order {uuid.uuid4()}"
    kicker = client.find_task("bill").kicker().with_task_id(task_id).with_labels(urgent=True)
    task = await kicker.kiq(8, total="1")
    assert task.task_id == task_id
    result = await task.wait_result(**PROMPTLY)
    assert result.return_value["urgent"] is True
    assert result.labels == {"department": "sales", "urgent": True}
    record = await client.result_backend.store.get(task_id)
    assert record.labels == {"department": "sales", "urgent": True}
    assert (record.task_name, record.args, record.kwargs) == ("bill", [8], {"total": "1"})


async def test_the_row_tells_of_the_process_that_ran_the_task(client):
    task = await client.find_task("double").kiq(3)
    await task.wait_result(**PROMPTLY)
    record = await client.result_backend.store.get(task.task_id)
    assert record.status == Status.SUCCESS
    _, _, pid = record.worker.rpartition(":")
    assert int(pid) != os.getpid()
    assert record.queued_at <= record.started_at <= record.finished_at


async def test_progress_is_seen_while_the_task_runs(client):
    task = await client.find_task("climb").kiq(15)
    seen = []
    while not await task.is_ready():
        seen.append(await task.get_progress())
        await asyncio.sleep(0.01)
    assert (await task.get_result()).return_value == "top"
    steps = {progress.meta["current"] for progress in seen if progress is not None}
    assert len(steps) > 1
    assert {progress.state for progress in seen if progress is not None} == {"climbing"}


async def test_a_wait_that_takes_too_long_ends_and_the_result_comes_all_the_same(client):
    task = await client.find_task("climb").kiq(20)
    with pytest.raises(TaskiqResultTimeoutError):
        await task.wait_result(check_interval=0.01, timeout=0.05)
    assert (await task.wait_result(**PROMPTLY)).return_value == "top"


async def test_a_scheduled_task_runs_and_its_result_is_found(client, application, admin):
    scheduler = TaskiqScheduler(client, [LabelScheduleSource(client)])
    running = asyncio.create_task(run_scheduler_task(scheduler))
    query = sql.SQL(
        "SELECT return_value, args FROM {} WHERE task_name = 'tick' AND status = 'SUCCESS'"
    ).format(sql.Identifier(application["table_name"]))
    try:
        for _ in range(500):
            if rows := admin.execute(query).fetchall():
                break
            await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert rows[0] == (42, [21])
