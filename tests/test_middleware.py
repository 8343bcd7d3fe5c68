from __future__ import annotations

import asyncio
import gc
import os
import socket
import uuid
from datetime import datetime, timezone

import pytest
from psycopg import sql
from road import PROMPTLY, HeldBroker, PickleFormatter, finished
from taskiq import (
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.exceptions import NoResultError, TaskRejectedError

from taskiq_pg_json import (
    ConfigurationError,
    Status,
    TaskInfo,
    TaskInfoMiddleware,
    TaskNotFoundError,
)
from taskiq_pg_json.executions import Execution
from taskiq_pg_json.middleware import QUEUED_AT_LABEL

HERE = f"{socket.gethostname()}:{os.getpid()}"
_WATCH = """
CREATE TABLE {history} (number serial, task_id text, status text, row_ jsonb);
CREATE FUNCTION {history}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {history} (task_id, status, row_) VALUES (NEW.task_id, NEW.status, to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION {history}();
"""


def now():
    return datetime.now(timezone.utc)


@pytest.fixture
def history(backend, admin):
    """What each version of a task's row said, in order: ``history(task_id)`` or of all tasks."""
    table = backend.store.names.table
    name = sql.Identifier(f"{table}_history")
    admin.execute(sql.SQL(_WATCH).format(history=name, table=sql.Identifier(table)))

    def read(task_id=None):
        query = sql.SQL("SELECT row_ FROM {} WHERE coalesce(task_id = %s, true) ORDER BY number")
        return [row for (row,) in admin.execute(query.format(name), [task_id])]

    yield read
    admin.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(name))


@pytest.fixture
def statuses(history):
    """The statuses that a task's row has had, in order."""
    return lambda task_id=None: [row["status"] for row in history(task_id)]


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


class TestStates:
    async def test_by_default_only_the_end_is_written(self, start_broker, backend, statuses):
        broker = await start_broker(HeldBroker(), backend, TaskInfoMiddleware())

        @broker.task
        async def noop():
            pass

        await noop.kiq()
        assert statuses() == []
        await broker.run_all()
        assert statuses() == ["SUCCESS"]

    async def test_a_task_that_was_sent_is_queued_then_started_then_ended(
        self, start_broker, backend, statuses
    ):
        middleware = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = await start_broker(HeldBroker(), backend, middleware)

        @broker.task("shop:look")
        async def look(_order, context: Context = TaskiqDepends()):
            assert not await backend.is_result_ready(context.message.task_id)
            return (await backend.store.get(context.message.task_id)).status

        task = await look.kiq(7)
        queued = await backend.store.get(task.task_id)
        assert (queued.status, queued.task_name, queued.args) == (
            Status.QUEUED,
            "shop:look",
            [7],
        )
        assert (queued.worker, queued.started_at, queued.finished_at) == (None, None, None)
        assert not await task.is_ready()
        await broker.run_all()
        assert (await task.get_result()).return_value == Status.STARTED
        assert statuses() == ["QUEUED", "STARTED", "SUCCESS"]
        ended = await backend.store.get(task.task_id)
        assert ended.queued_at == queued.queued_at

    @pytest.mark.parametrize(
        ("options", "seen"),
        [
            ({"record_queued": True}, ["QUEUED", "SUCCESS"]),
            ({"record_started": True}, ["STARTED", "SUCCESS"]),
        ],
    )
    async def test_each_state_is_recorded_by_itself(
        self, start_broker, backend, statuses, options, seen
    ):
        broker = await start_broker(HeldBroker(), backend, TaskInfoMiddleware(**options))

        @broker.task
        async def noop():
            pass

        await noop.kiq()
        await broker.run_all()
        assert statuses() == seen

    async def test_a_running_task_is_a_row_of_the_outcomes(
        self, start_broker, backend, admin, table_name
    ):
        broker = await start_broker(HeldBroker(), backend, TaskInfoMiddleware(record_started=True))

        @broker.task("shop:look")
        async def look():
            return admin.execute(
                sql.SQL(
                    "SELECT status, task_name, execution_time >= 0, finished_at FROM {}"
                ).format(sql.Identifier(f"{table_name}_outcomes"))
            ).fetchall()

        task = await look.kiq()
        await broker.run_all()
        seen = (await task.get_result()).return_value
        assert [tuple(row) for row in seen] == [("STARTED", "shop:look", True, None)]

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.STARTED, Status.RETRY])
    @pytest.mark.parametrize("is_err", [False, True])
    @pytest.mark.parametrize("started_at", [None, datetime(2099, 1, 1, tzinfo=timezone.utc)])
    async def test_a_late_state_never_overwrites_a_row_that_has_ended(
        self, backend, history, status, is_err, started_at
    ):
        error = ValueError("x") if is_err else None
        await backend.set_result("id", finished(1, is_err=is_err, error=error))
        info = TaskInfo("late", started_at=started_at, queued_at=now())
        await backend.store.record_state("id", status, info)
        (only,) = history("id")
        assert only["status"] == ("FAILURE" if is_err else "SUCCESS")
        assert (await backend.store.get("id")).task_name is None

    async def test_a_late_queued_never_overwrites_started(self, backend, statuses):
        started = TaskInfo("t", started_at=now())
        await backend.store.record_state("id", Status.STARTED, started)
        await backend.store.record_state("id", Status.QUEUED, TaskInfo("t", queued_at=now()))
        assert statuses() == ["STARTED"]

    async def test_the_state_of_an_earlier_attempt_never_overwrites_a_later_one(
        self, backend, statuses
    ):
        first, second = TaskInfo("t", started_at=now()), TaskInfo("t", started_at=now())
        await backend.store.record_state("id", Status.STARTED, second)
        await backend.store.record_state("id", Status.RETRY, first)
        assert statuses() == ["STARTED"]

    async def test_discarding_an_attempt_leaves_a_later_one_alone(self, backend):
        first, second = TaskInfo("t", started_at=now()), TaskInfo("t", started_at=now())
        await backend.store.record_state("id", Status.STARTED, second)
        await backend.store.discard_state("id", first)
        assert (await backend.store.get("id")).started_at == second.started_at

    async def test_a_state_that_cannot_be_written_stops_no_task(
        self, start_broker, backend, admin, table_name, caplog
    ):
        middleware = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = await start_broker(HeldBroker(), backend, middleware)

        @broker.task
        async def noop():
            return "done"

        admin.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT refuse CHECK (status = 'SUCCESS')").format(
                sql.Identifier(table_name)
            )
        )
        task = await noop.kiq()
        await broker.run_all()
        assert (await task.get_result()).return_value == "done"
        assert "The state QUEUED of task" in caplog.text
        assert "The state STARTED of task" in caplog.text


RETRYING = {
    "simple": lambda **options: SimpleRetryMiddleware(default_retry_count=3, **options),
    "smart": lambda **options: SmartRetryMiddleware(
        default_retry_count=3, default_delay=0, **options
    ),
}


@pytest.fixture(params=["ours first", "ours last"])
def order(request):
    """Puts our middleware before or after another one."""
    return lambda ours, other: (ours, other) if request.param == "ours first" else (other, ours)


@pytest.mark.parametrize("retrying", RETRYING.values(), ids=RETRYING)
class TestRetries:
    async def test_a_retry_is_a_row_and_the_last_attempt_wins(
        self, start_broker, backend, history, retrying, order
    ):
        broker = await start_broker(HeldBroker(), backend, *order(TaskInfoMiddleware(), retrying()))
        attempts = []

        @broker.task("shop:flaky", retry_on_error=True)
        async def flaky(order):
            attempts.append(order)
            if len(attempts) < 3:
                raise ConnectionError(f"attempt {len(attempts)}")
            return len(attempts)

        task = await flaky.kiq(7)
        await broker.run_next()
        waiting = await backend.store.get(task.task_id)
        assert waiting.status == Status.RETRY
        assert (waiting.task_name, waiting.args, waiting.worker) == ("shop:flaky", [7], HERE)
        assert type(waiting.error) is ConnectionError
        assert str(waiting.error) == "attempt 1"
        assert not await task.is_ready()
        await broker.run_all()
        result = await task.get_result()
        assert (result.return_value, result.is_err, result.error) == (3, False, None)
        assert [row["status"] for row in history()] == ["RETRY", "RETRY", "SUCCESS"]
        assert [row["error"] and row["error"]["message"] for row in history()] == [
            "attempt 1",
            "attempt 2",
            None,
        ]
        ended = await backend.store.get(task.task_id)
        assert (ended.error, ended.labels["_retries"]) == (None, 2)

    async def test_attempts_that_all_fail_end_in_the_last_failure(
        self, start_broker, backend, statuses, retrying, order
    ):
        broker = await start_broker(HeldBroker(), backend, *order(TaskInfoMiddleware(), retrying()))
        attempts = []

        @broker.task(retry_on_error=True)
        async def hopeless():
            attempts.append(1)
            raise ConnectionError(f"attempt {len(attempts)}")

        task = await hopeless.kiq()
        await broker.run_all()
        result = await task.get_result()
        assert result.is_err
        assert str(result.error) == "attempt 3"
        assert statuses() == ["RETRY", "RETRY", "FAILURE"]

    async def test_states_of_every_attempt_are_seen_where_they_are_recorded(
        self, start_broker, backend, history, retrying, order
    ):
        ours = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = await start_broker(HeldBroker(), backend, *order(ours, retrying()))
        attempts = []

        @broker.task(retry_on_error=True)
        async def flaky():
            attempts.append(1)
            if len(attempts) < 2:
                raise ConnectionError
            return "done"

        task = await flaky.kiq()
        await broker.run_all()
        rows = history()
        assert [row["status"] for row in rows] == [
            "QUEUED",
            "STARTED",
            "RETRY",
            "STARTED",
            "SUCCESS",
        ]
        assert rows[1]["started_at"] < rows[3]["started_at"] == rows[4]["started_at"]
        assert (await task.get_result()).return_value == "done"

    async def test_a_result_of_every_attempt_ends_in_that_of_the_last(
        self, start_broker, backend, statuses, retrying, order
    ):
        retries = retrying(no_result_on_retry=False)
        broker = await start_broker(HeldBroker(), backend, *order(TaskInfoMiddleware(), retries))
        attempts = []

        @broker.task(retry_on_error=True)
        async def flaky():
            attempts.append(1)
            if len(attempts) < 3:
                raise ConnectionError(f"attempt {len(attempts)}")
            return "done"

        task = await flaky.kiq()
        await broker.run_next()
        assert str((await task.get_result()).error) == "attempt 1"
        await broker.run_all()
        assert (await task.get_result()).return_value == "done"
        assert statuses() == ["FAILURE", "FAILURE", "SUCCESS"]

    @pytest.mark.parametrize("no_result_on_retry", [True, False])
    async def test_an_attempt_that_ends_before_the_one_it_retries_still_wins(
        self, start_broker, backend, retrying, no_result_on_retry
    ):
        broker = await start_broker(
            InMemoryBroker(await_inplace=True),
            backend,
            TaskInfoMiddleware(record_queued=True, record_started=True),
            retrying(no_result_on_retry=no_result_on_retry),
        )
        attempts = []

        @broker.task(retry_on_error=True)
        async def flaky():
            attempts.append(1)
            if len(attempts) < 3:
                raise ConnectionError(f"attempt {len(attempts)}")
            return "done"

        task = await flaky.kiq()
        result = await task.get_result()
        assert (result.return_value, result.is_err) == ("done", False)
        assert (await backend.store.get(task.task_id)).status == Status.SUCCESS


class TestTasksWithoutAResult:
    @pytest.fixture
    async def broker(self, start_broker, backend, options):
        return await start_broker(HeldBroker(), backend, TaskInfoMiddleware(**options))

    @pytest.fixture(params=[{}, {"record_queued": True, "record_started": True}], ids=["", "rec"])
    def options(self, request):
        return request.param

    async def test_a_task_that_wants_no_result_leaves_none(self, broker, backend):
        @broker.task
        async def silent():
            raise NoResultError

        task = await silent.kiq()
        await broker.run_all()
        assert not await task.is_ready()
        with pytest.raises(TaskNotFoundError):
            await backend.store.get(task.task_id)

    async def test_a_task_that_is_sent_again_is_queued_until_it_runs(
        self, broker, backend, options, statuses
    ):
        @broker.task
        async def again(context: Context = TaskiqDepends()):
            if "X-Taskiq-requeue" not in context.message.labels:
                await context.requeue()
            return "done"

        task = await again.kiq()
        await broker.run_next()
        assert not await task.is_ready()
        if options:
            assert (await backend.store.get(task.task_id)).status == Status.QUEUED
        await broker.run_all()
        assert (await task.get_result()).return_value == "done"
        expected = (
            ["QUEUED", "STARTED", "QUEUED", "STARTED", "SUCCESS"]
            if options
            else ["QUEUED", "SUCCESS"]
        )
        assert statuses() == expected

    async def test_a_task_may_be_sent_again_more_than_once(self, broker, statuses, options):
        @broker.task
        async def again(context: Context = TaskiqDepends()):
            if int(context.message.labels.get("X-Taskiq-requeue", 0)) < 3:
                await context.requeue()
            return "done"

        task = await again.kiq()
        await broker.run_all()
        assert (await task.get_result()).return_value == "done"
        assert statuses().count("QUEUED") == (4 if options else 3)

    async def test_a_task_that_is_sent_again_keeps_the_time_it_was_first_sent(
        self, broker, backend
    ):
        @broker.task
        async def again(context: Context = TaskiqDepends()):
            if "X-Taskiq-requeue" not in context.message.labels:
                await context.requeue()

        before = now()
        task = await again.kiq()
        sent = now()
        await broker.run_all()
        assert before <= (await backend.store.get(task.task_id)).queued_at <= sent

    async def test_a_task_that_is_rejected_fails_and_says_so(self, broker, backend):
        @broker.task
        async def refuse(context: Context = TaskiqDepends()):
            context.reject()

        task = await refuse.kiq()
        await broker.run_all()
        result = await task.get_result()
        assert result.is_err
        assert type(result.error) is TaskRejectedError
        assert (await backend.store.get(task.task_id)).status == Status.FAILURE

    async def test_a_task_after_one_without_a_result_is_told_of_rightly(self, broker, backend):
        @broker.task("silent")
        async def silent():
            raise NoResultError

        @broker.task("loud")
        async def loud():
            return 1

        await silent.kiq()
        task = await loud.kiq()
        await broker.run_all()
        assert (await backend.store.get(task.task_id)).task_name == "loud"


class TestRedaction:
    @pytest.fixture
    def sent(self, start_broker, backend):
        """Runs a task with a redacting middleware and returns its record."""

        async def send(redact, *args, **kwargs):
            middleware = TaskInfoMiddleware(redact=redact, record_queued=True, record_started=True)
            labels = {"token": "t0ps3cret", "queue": "fast"}
            broker = await start_broker(InMemoryBroker(await_inplace=True), backend, middleware)

            @broker.task("login", **labels)
            async def login(user, password=None, *rest, **options):
                return [user, password, *rest, options]

            task = await login.kiq(*args, **kwargs)
            result = await task.get_result()
            assert result.return_value == [*args, *([None] * (2 - len(args))), kwargs]
            return await backend.store.get(task.task_id)

        return send

    async def test_a_named_keyword_argument_is_hidden(self, sent):
        record = await sent({"token"}, "ann", "x", token="t0ps3cret", a=1)
        assert record.kwargs == {"token": "[redacted]", "a": 1}

    async def test_a_named_positional_argument_is_hidden(self, sent):
        record = await sent(["password"], "ann", "t0ps3cret")
        assert record.args == ["ann", "[redacted]"]

    async def test_a_name_is_hidden_inside_of_arguments(self, sent):
        nested = {"a": [{"password": "t0ps3cret"}], "b": {"password": {"deep": "t0ps3cret"}}}
        record = await sent(("password", "token"), nested, None, more=[nested])
        hidden = {"a": [{"password": "[redacted]"}], "b": {"password": "[redacted]"}}
        assert record.args == [hidden, "[redacted]"]
        assert record.kwargs == {"more": [hidden]}

    async def test_a_label_of_that_name_is_hidden(self, sent):
        record = await sent({"token"}, "ann")
        assert record.labels == {"token": "[redacted]", "queue": "fast"}

    async def test_a_secret_stands_in_no_version_of_the_row(self, sent, history):
        await sent({"password", "token"}, {"password": "t0ps3cret"}, token="t0ps3cret")
        rows = history()
        assert [row["status"] for row in rows] == ["STARTED", "SUCCESS"]
        assert all("t0ps3cret" not in str({**row, "return_value": None}) for row in rows)

    async def test_a_callable_decides_for_itself(self, sent):
        def redact(task_name, args, kwargs):
            return [task_name, *("*" * len(arg) for arg in args)], {**kwargs, "seen": True}

        record = await sent(redact, "ann", "pass")
        assert (record.args, record.kwargs) == (["login", "***", "****"], {"seen": True})

    async def test_a_callable_cannot_change_what_the_task_is_given(self, sent):
        def redact(_task_name, args, kwargs):
            args[0]["deep"].clear()
            kwargs.clear()
            return args, kwargs

        record = await sent(redact, {"deep": [1]}, "x", a=1)
        assert (record.args, record.kwargs) == ([{"deep": []}, "x"], {})

    async def test_where_a_callable_fails_no_arguments_are_stored(self, sent, caplog):
        def redact(*_call):
            raise RuntimeError("no idea")

        record = await sent(redact, "ann", "t0ps3cret", a=1)
        assert (record.args, record.kwargs) == (None, None)
        assert record.task_name == "login"
        assert "the arguments of login are not stored" in caplog.text
        assert "t0ps3cret" not in caplog.text

    @pytest.mark.parametrize("answer", [None, "secret", 7, ([],), ([], {}, 1)])
    async def test_where_a_callable_answers_nonsense_no_arguments_are_stored(self, sent, answer):
        record = await sent(lambda *_: answer, "ann", "t0ps3cret")
        assert (record.args, record.kwargs) == (None, None)
        assert record.status == Status.SUCCESS

    @pytest.mark.parametrize("redact", ["password", 7, b"password"])
    def test_what_is_no_collection_of_names_is_refused(self, redact):
        with pytest.raises(ConfigurationError, match=r"redact=.*redact=\{'password'\}"):
            TaskInfoMiddleware(redact=redact)


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
        ended = asyncio.Event()

        @broker.task("link")
        async def link(left):
            if left:
                await link.kiq(left - 1)
            else:
                ended.set()

        def alive():
            gc.collect()
            return sum(type(thing) is Execution for thing in gc.get_objects())

        before = alive()
        await link.kiq(1000)
        await asyncio.wait_for(ended.wait(), 60)
        # Those whose results are just being stored, and not the whole chain.
        assert alive() - before < 500
        await broker.wait_all()
        assert alive() - before < 5


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
