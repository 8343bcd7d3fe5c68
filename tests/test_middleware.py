from __future__ import annotations

import asyncio
import gc
import uuid

import pytest
from road import HERE, PROMPTLY, HeldBroker, PickleFormatter, finished, now
from taskiq import (
    AsyncResultBackend,
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    TaskiqDepends,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.exceptions import NoResultError
from taskiq.result_backends.dummy import DummyResultBackend

from taskiq_pg_json import (
    ConfigurationError,
    JsonbResultBackend,
    Status,
    TaskInfo,
    TaskInfoMiddleware,
)
from taskiq_pg_json.executions import Execution
from taskiq_pg_json.middleware import QUEUED_AT_LABEL


class Wrapping(AsyncResultBackend):
    """Hands all on to another backend, and has nothing else of it."""

    def __init__(self, inner):
        self.inner = inner

    async def set_result(self, task_id, result):
        await self.inner.set_result(task_id, result)

    async def is_result_ready(self, task_id):
        return await self.inner.is_result_ready(task_id)

    async def get_result(self, task_id, with_logs=False):
        return await self.inner.get_result(task_id, with_logs)


class TestWhatARowSays:
    async def test_name_arguments_worker_and_times_are_in_the_row(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("shop:charge", queue="fast")
        async def charge(order, *, amount):
            await asyncio.sleep(0.02)
            return order + amount

        before = now()
        task = await charge.kiq(40, amount=2)
        await task.wait_result(**PROMPTLY)
        record = await backend.store.get(task.task_id)
        assert record.task_name == "shop:charge"
        assert record.args == [40]
        assert record.kwargs == {"amount": 2}
        assert record.labels == {"queue": "fast"}
        assert record.worker == HERE
        assert record.return_value == 42
        assert before <= record.queued_at <= record.started_at <= record.finished_at <= now()
        assert 0.02 <= record.execution_time <= 5
        took = (record.finished_at - record.started_at).total_seconds()
        assert took >= record.execution_time - 1e-5

    async def test_the_duration_is_not_rounded(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task
        async def quick():
            pass

        tasks = [await quick.kiq() for _ in range(5)]
        results = [await task.wait_result(**PROMPTLY) for task in tasks]
        assert any(round(result.execution_time, 2) != result.execution_time for result in results)
        records = await backend.store.get_many([task.task_id for task in tasks])
        assert [records[task.task_id].execution_time for task in tasks] == [
            result.execution_time for result in results
        ]

    async def test_without_the_middleware_the_row_says_what_taskiq_says(
        self, start_broker, backend
    ):
        broker = await start_broker(InMemoryBroker(), backend)

        @broker.task(queue="fast")
        async def add(a, b):
            return a + b

        task = await add.kiq(1, 2)
        assert (await task.wait_result(**PROMPTLY)).return_value == 3
        record = await backend.store.get(task.task_id)
        assert (record.task_name, record.args, record.kwargs) == (None, None, None)
        assert (record.worker, record.queued_at, record.started_at) == (None, None, None)
        assert record.labels == {"queue": "fast"}
        assert record.finished_at is not None

    async def test_it_is_written_by_the_statement_that_writes_the_result(
        self, start_broker, backend, history
    ):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task
        async def add(a, b):
            return a + b

        task = await add.kiq(1, b=2)
        await task.wait_result(**PROMPTLY)
        (only,) = history()
        assert only["status"] == "SUCCESS"
        assert (only["args"], only["kwargs"], only["return_value"]) == ([1], {"b": 2}, 3)
        assert only["worker"] == HERE
        assert all(only[time] for time in ("queued_at", "started_at", "finished_at"))

    async def test_a_failure_says_as_much(self, start_broker, backend, history):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("shop:fail")
        async def fail(order):
            raise LookupError(order)

        task = await fail.kiq(7)
        result = await task.wait_result(**PROMPTLY)
        assert result.is_err
        (only,) = history()
        assert (only["status"], only["task_name"], only["args"]) == ("FAILURE", "shop:fail", [7])
        assert only["error"]["type"] == "LookupError"
        assert only["error"]["message"] == "7"
        assert "in fail" in only["error"]["traceback"]

    async def test_sync_tasks_are_told_of_too(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task
        def add(a, b):
            return a + b

        task = await add.kiq(1, 2)
        assert (await task.wait_result(**PROMPTLY)).return_value == 3
        record = await backend.store.get(task.task_id)
        assert (record.args, record.worker) == ([1, 2], HERE)

    async def test_many_tasks_at_once_keep_to_their_own_arguments(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task
        async def echo(number):
            await asyncio.sleep(0.001 * (number % 7))
            return number

        tasks = [await echo.kiq(number) for number in range(200)]
        await broker.wait_all()
        records = await backend.store.get_many([task.task_id for task in tasks])
        told = [(records[task.task_id].args, records[task.task_id].return_value) for task in tasks]
        assert told == [([number], number) for number in range(200)]

    async def test_arguments_stand_as_they_were_sent_whatever_the_task_does_to_them(
        self, start_broker, backend
    ):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task
        async def spoil(items, *, options, context: Context = TaskiqDepends()):
            items.append("spoiled")
            items[0]["deep"].append("spoiled")
            options["spoiled"] = True
            context.message.kwargs["spoiled"] = True
            context.message.labels["spoiled"] = "yes"

        task = await spoil.kiq([{"deep": [1]}], options={"a": {"b": 2}})
        await task.wait_result(**PROMPTLY)
        record = await backend.store.get(task.task_id)
        assert record.args == [[{"deep": [1]}]]
        assert record.kwargs == {"options": {"a": {"b": 2}}}

    async def test_arguments_keep_their_types_where_the_broker_keeps_them(
        self, start_broker, backend
    ):
        broker = InMemoryBroker().with_formatter(PickleFormatter())
        await start_broker(broker, backend, TaskInfoMiddleware())

        @broker.task
        async def echo(at, pair):
            return at, pair

        at = now()
        task = await echo.kiq(at, pair=(1, {2, 3}))
        assert (await task.wait_result(**PROMPTLY)).return_value == (at, (1, {2, 3}))
        record = await backend.store.get(task.task_id)
        assert record.args == [at]
        assert record.kwargs == {"pair": (1, {2, 3})}

    async def test_the_label_that_carries_the_time_of_sending_is_seen_by_nobody(
        self, start_broker, backend, history
    ):
        middleware = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = await start_broker(InMemoryBroker(), backend, middleware)

        @broker.task(queue="fast")
        async def look(context: Context = TaskiqDepends()):
            return dict(context.message.labels)

        task = await look.kiq()
        result = await task.wait_result(**PROMPTLY)
        assert result.return_value == result.labels == {"queue": "fast"}
        assert all(QUEUED_AT_LABEL not in row["labels"] for row in history())

    async def test_a_message_of_a_client_without_the_middleware_runs(self, start_broker, backend):
        client = await start_broker(HeldBroker(), backend)
        worker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        async def add(a, b):
            return a + b

        worker.register_task(add, "add")
        task = await client.register_task(add, "add").kiq(1, 2)
        await worker.receiver.callback(client.held.popleft().message)
        assert (await task.get_result()).return_value == 3
        record = await backend.store.get(task.task_id)
        assert (record.task_name, record.args, record.queued_at) == ("add", [1, 2], None)
        assert record.started_at is not None

    async def test_a_worker_without_the_middleware_keeps_what_was_recorded_when_sent(
        self, start_broker, backend
    ):
        client = await start_broker(HeldBroker(), backend, TaskInfoMiddleware(record_queued=True))
        worker = await start_broker(InMemoryBroker(), backend)

        async def add(a, b):
            return a + b

        worker.register_task(add, "add")
        task = await client.register_task(add, "add").kiq(1, b=2)
        await worker.receiver.callback(client.held.popleft().message)
        record = await backend.store.get(task.task_id)
        assert (record.task_name, record.args, record.kwargs) == ("add", [1], {"b": 2})
        assert record.status == Status.SUCCESS
        assert record.return_value == 3
        assert record.queued_at is not None


class TestNesting:
    async def test_a_task_that_runs_inside_another_keeps_its_own_row(self, start_broker, backend):
        broker = await start_broker(
            InMemoryBroker(await_inplace=True), backend, TaskInfoMiddleware(record_started=True)
        )
        inner_tasks = []

        @broker.task("inner")
        async def inner(number):
            if number == 2:
                raise NoResultError
            if number == 3:
                raise ValueError(number)
            return number

        @broker.task("outer")
        async def outer(depth):
            inner_tasks.extend([await inner.kiq(number) for number in (1, 2, 3)])
            if depth:
                await outer.kiq(depth - 1)
            return depth

        task = await outer.kiq(2)
        record = await backend.store.get(task.task_id)
        assert (record.task_name, record.args, record.return_value) == ("outer", [2], 2)
        assert len(inner_tasks) == 9
        records = await backend.store.get_many([inner_task.task_id for inner_task in inner_tasks])
        told = sorted((row.task_name, *row.args, row.status) for row in records.values())
        assert told == [("inner", 1, "SUCCESS")] * 3 + [("inner", 3, "FAILURE")] * 3

    @pytest.mark.parametrize("keeps", [True, False])
    async def test_a_task_inside_whose_result_nobody_takes_leaves_the_outer_one_its_row(
        self, start_broker, backend, dsn, table_name, keeps
    ):
        class Forgetful(JsonbResultBackend):
            async def set_result(self, task_id, result):
                pass

        elsewhere = InmemoryResultBackend() if keeps else Forgetful(dsn, table_name=table_name)
        middleware = TaskInfoMiddleware(redact={"token"})
        broker = await start_broker(InMemoryBroker(await_inplace=True), backend, middleware)
        other = await start_broker(
            InMemoryBroker(await_inplace=True), elsewhere, TaskInfoMiddleware()
        )

        @other.task("event")
        async def event():
            pass

        @broker.task("outer", token="t0ps3cret")
        async def outer(x):
            await event.kiq()
            await event.kiq()
            return x

        task = await outer.kiq(5)
        record = await backend.store.get(task.task_id)
        assert (record.task_name, record.args) == ("outer", [5])
        assert record.labels == {"token": "[redacted]"}
        assert record.started_at is not None

    async def test_tasks_that_a_task_spawns_keep_their_own_rows(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("child")
        async def child(number):
            await asyncio.sleep(0)
            return number

        @broker.task("parent")
        async def parent():
            return [(await child.kiq(number)).task_id for number in range(20)]

        task = await parent.kiq()
        ids = (await task.wait_result(**PROMPTLY)).return_value
        await broker.wait_all()
        records = await backend.store.get_many(ids)
        assert [(records[id_].task_name, records[id_].args) for id_ in ids] == [
            ("child", [number]) for number in range(20)
        ]
        assert (await backend.store.get(task.task_id)).task_name == "parent"

    async def test_a_result_that_a_task_stores_for_another_is_not_told_of_as_its_own(
        self, start_broker, backend
    ):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("outer")
        async def outer():
            await backend.set_result("by hand", finished(1))
            return 2

        task = await outer.kiq()
        await task.wait_result(**PROMPTLY)
        assert (await backend.store.get("by hand")).task_name is None
        assert (await backend.store.get(task.task_id)).task_name == "outer"

    async def test_a_chain_of_a_thousand_tasks_keeps_nothing_alive(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        def alive():
            gc.collect()
            return sum(type(thing) is Execution for thing in gc.get_objects())

        before = alive()
        at_the_end = asyncio.get_running_loop().create_future()

        @broker.task("link")
        async def link(left):
            if left:
                await link.kiq(left - 1)
                return
            while len(broker._running_tasks) > 1:  # noqa: ASYNC110 - the others store their results
                await asyncio.sleep(0.01)
            at_the_end.set_result(alive())

        await link.kiq(1000)
        assert await asyncio.wait_for(at_the_end, 60) - before < 5
        await broker.wait_all()


class TestOtherBackends:
    async def test_it_changes_nothing_for_another_backend(self, start_broker):
        broker = await start_broker(
            InMemoryBroker(), InmemoryResultBackend(), TaskInfoMiddleware(redact={"token"})
        )

        @broker.task(queue="fast")
        async def add(a, b, context: Context = TaskiqDepends()):
            assert context.message.labels == {"queue": "fast"}
            return a + b

        task = await add.kiq(1, 2)
        result = await task.wait_result(**PROMPTLY)
        assert (result.return_value, result.labels) == (3, {"queue": "fast"})

    async def test_tasks_without_a_result_change_nothing_for_another_backend(self, start_broker):
        broker = await start_broker(
            HeldBroker(),
            InmemoryResultBackend(),
            TaskInfoMiddleware(),
            SimpleRetryMiddleware(default_retry_count=2),
        )

        @broker.task(retry_on_error=True)
        async def flaky():
            raise ValueError("x")

        task = await flaky.kiq()
        await broker.run_all()
        assert (await task.wait_result(**PROMPTLY)).is_err

    @pytest.mark.parametrize("in_place", [True, False])
    async def test_a_backend_that_wraps_ours_stores_what_is_known(
        self, start_broker, backend, in_place
    ):
        broker = await start_broker(
            InMemoryBroker(await_inplace=in_place), Wrapping(backend), TaskInfoMiddleware()
        )

        @broker.task("shop:charge")
        async def charge(order):
            await backend.set_result("by hand", finished(order))
            return order

        for order in (1, 2):
            task = await charge.kiq(order)
            assert (await task.wait_result(**PROMPTLY)).return_value == order
            record = await backend.store.get(task.task_id)
            assert (record.task_name, record.args, record.worker) == ("shop:charge", [order], HERE)
            assert record.queued_at <= record.started_at <= record.finished_at
            await backend.set_result(task.task_id + " again", finished(order))
            assert (await backend.store.get(task.task_id + " again")).task_name is None
        assert (await backend.store.get("by hand")).task_name is None

    async def test_with_our_store_it_has_an_end_of_what_is_dropped_too(
        self, start_broker, backend, caplog
    ):
        class Known(Wrapping):
            store = backend.store

        async def failing():
            yield 1
            raise ValueError("closing")

        broker = await start_broker(InMemoryBroker(), Known(backend), TaskInfoMiddleware())

        @broker.task
        async def dropped(x=TaskiqDepends(failing)):
            return x

        task = await dropped.kiq()
        assert repr((await task.wait_result(**PROMPTLY)).error) == "ValueError('closing')"
        assert "TaskInfoMiddleware" not in caplog.text

    async def test_what_nobody_takes_is_not_kept(self, start_broker):
        broker = await start_broker(
            InMemoryBroker(await_inplace=True), InmemoryResultBackend(), TaskInfoMiddleware()
        )

        @broker.task
        async def noop(x):
            return x

        def alive():
            gc.collect()
            return sum(type(thing) is TaskInfo for thing in gc.get_objects())

        before = alive()
        for number in range(100):
            await noop.kiq(number)
        assert alive() - before <= 1

    @pytest.mark.parametrize("wrapped", [True, False])
    async def test_another_backend_is_warned_of_at_startup(
        self, start_broker, backend, caplog, wrapped
    ):
        other = Wrapping(backend) if wrapped else InmemoryResultBackend()
        await start_broker(InMemoryBroker(), other, TaskInfoMiddleware())
        (warning,) = (
            record.getMessage() for record in caplog.records if record.name == "taskiq_pg_json"
        )
        assert f"the broker has a {type(other).__name__}" in warning
        assert "'store'" in warning

    @pytest.mark.parametrize("is_worker", [True, False])
    async def test_a_client_without_results_is_not_warned(self, start_broker, caplog, is_worker):
        broker = HeldBroker()
        broker.is_worker_process = is_worker
        await start_broker(broker, DummyResultBackend(), TaskInfoMiddleware())
        assert ("TaskInfoMiddleware" in caplog.text) is is_worker

    async def test_our_backend_is_not_warned_of(self, start_broker, backend, caplog):
        await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())
        assert "TaskInfoMiddleware" not in caplog.text

    @pytest.mark.parametrize("option", ["record_queued", "record_started"])
    async def test_states_without_our_backend_are_refused_at_startup(self, option):
        broker = InMemoryBroker().with_middlewares(TaskInfoMiddleware(**{option: True}))
        with pytest.raises(ConfigurationError, match=r"need a JsonbResultBackend.*Inmemory"):
            await broker.startup()

    async def test_middleware_and_backend_may_be_given_in_either_order(self, backend):
        broker = InMemoryBroker().with_middlewares(TaskInfoMiddleware(record_started=True))
        broker.with_result_backend(backend)
        await broker.startup()

        @broker.task("noop")
        async def noop():
            pass

        task = await noop.kiq()
        await task.wait_result(**PROMPTLY)
        assert (await backend.store.get(task.task_id)).task_name == "noop"
        await broker.shutdown()

    async def test_a_broker_starts_a_backend_that_nobody_has_started(self, dsn, table_name):
        from taskiq_pg_json import JsonbResultBackend

        backend = JsonbResultBackend(dsn, table_name=table_name)
        broker = InMemoryBroker().with_result_backend(backend)
        broker.with_middlewares(TaskInfoMiddleware(record_queued=True))
        for _ in range(2):
            await broker.startup()

            @broker.task("noop")
            async def noop():
                pass

            task = await noop.kiq()
            await broker.wait_all()
            assert (await task.wait_result(**PROMPTLY)).is_err is False
            await backend.shutdown()

    async def test_ids_of_any_kind_are_told_of(self, start, start_broker):
        backend = await start(field_for_task_id="Uuid")
        broker = await start_broker(
            InMemoryBroker(), backend, TaskInfoMiddleware(record_queued=True)
        )

        @broker.task("noop")
        async def noop():
            return "done"

        id_ = str(uuid.uuid4()).upper()
        task = await noop.kicker().with_task_id(id_).kiq()
        assert (await task.wait_result(**PROMPTLY)).return_value == "done"
        assert (await backend.store.get(id_)).task_name == "noop"
