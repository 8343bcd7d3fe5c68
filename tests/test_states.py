from __future__ import annotations

import asyncio
from datetime import date, datetime, timezone

import pytest
import samples
from psycopg import sql
from road import HERE, HeldBroker, finished, now
from taskiq import (
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqMiddleware,
)
from taskiq.exceptions import NoResultError, TaskRejectedError

from taskiq_pg_json import (
    ConfigurationError,
    Outcome,
    Status,
    TaskInfo,
    TaskInfoMiddleware,
    TaskNotFoundError,
)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(), Status.SUCCESS),
        (Outcome(1), Status.SUCCESS),
        (Outcome(error=ValueError("x")), Status.FAILURE),
        (Outcome(1, "no exception"), Status.FAILURE),
        (Outcome(1, ValueError("x"), is_err=False), Status.SUCCESS),
        (Outcome(1, is_err=True), Status.FAILURE),
    ],
    ids=repr,
)
async def test_a_task_has_failed_if_it_has_an_error_unless_it_is_said(store, outcome, status):
    await store.set_result("id", outcome)
    assert outcome.status is (await store.get("id")).status is status
    assert (await store.get_outcome("id")).is_err is (status is Status.FAILURE)
    assert await store.count(status=status) == 1


async def test_a_failure_is_found_by_its_error_alone(store, refusing):
    await store.set_result("id", Outcome(error=ValueError("x")))
    async with refusing("22000", "NEW.labels IS NOT NULL"):
        await store.set_result("bare", Outcome(error=ValueError("x"), labels={"a": 1}))
    (group,) = await store.failures()
    assert (group.total, group.error_type) == (2, "ValueError")


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

    async def test_a_status_may_be_given_as_its_word(self, backend, statuses):
        await backend.store.record_state("id", "QUEUED", TaskInfo("shop", queued_at=now()))
        assert statuses() == ["QUEUED"]

    @pytest.mark.parametrize("status", ["LOST", "queued", None, 5, []])
    async def test_what_is_no_status_is_refused_with_the_words_there_are(self, backend, status):
        with pytest.raises(ConfigurationError, match='"QUEUED", "STARTED" or "RETRY"') as caught:
            await backend.store.record_state("id", status, TaskInfo("shop"))
        assert isinstance(caught.value, ValueError)
        assert repr(status) in str(caught.value)

    @pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", Status.SUCCESS, Status.FAILURE])
    async def test_an_end_is_no_state(self, backend, status):
        with pytest.raises(ConfigurationError, match=r"set_result\(\)"):
            await backend.store.record_state("id", status, TaskInfo("shop"))
        assert await backend.store.count() == 0

    @pytest.mark.parametrize("info", ["shop", None, {"task_name": "shop"}])
    async def test_what_is_no_info_is_refused(self, backend, info):
        store = backend.store
        for call in (store.record_state("id", "QUEUED", info), store.discard_state("id", info)):
            with pytest.raises(ConfigurationError, match="give a TaskInfo"):
                await call

    async def test_a_late_queued_never_overwrites_started(self, backend, statuses):
        started = TaskInfo("t", started_at=now())
        await backend.store.record_state("id", Status.STARTED, started)
        await backend.store.record_state("id", Status.QUEUED, TaskInfo("t", queued_at=now()))
        assert statuses() == ["STARTED"]

    async def test_a_late_queued_in_the_batch_of_started_changes_nothing(self, backend, statuses):
        started, queued = TaskInfo("t", started_at=now()), TaskInfo("t", queued_at=now())
        record = backend.store.record_state
        await asyncio.gather(
            *(record(str(number), Status.QUEUED, queued) for number in range(20)),
            record("id", Status.STARTED, started),
            record("id", Status.QUEUED, queued),
        )
        assert statuses("id") == ["STARTED"]

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

    async def test_times_without_a_zone_are_in_utc(self, backend):
        aware = TaskInfo("t", started_at=now())
        noon = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
        naive = TaskInfo("t", started_at=noon.replace(tzinfo=None))
        record, discard = backend.store.record_state, backend.store.discard_state
        infos = {str(number): naive if number == 5 else aware for number in range(20)}
        await asyncio.gather(*(record(id_, Status.STARTED, info) for id_, info in infos.items()))
        assert (await backend.store.get("5")).started_at == noon
        await asyncio.gather(*(discard(id_, info) for id_, info in infos.items()))
        assert await backend.store.get_many(infos) == {}

    async def test_an_attempt_can_be_taken_back_while_a_shutdown_waits(
        self, backend, connect, made_table
    ):
        info = TaskInfo("t", started_at=now())
        for id_ in ("held", "free"):
            await backend.store.record_state(id_, Status.STARTED, info)
        holder = await connect(autocommit=False)
        await holder.execute(
            sql.SQL("SELECT FROM {} WHERE task_id = 'held' FOR UPDATE").format(
                sql.Identifier(made_table)
            )
        )
        held = asyncio.create_task(backend.store.set_result("held", Outcome(1, info=info)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(backend.shutdown())
        await asyncio.sleep(0.05)
        await backend.store.discard_state("free", info)
        assert not closing.done()
        await holder.rollback()
        await asyncio.gather(held, closing)
        await backend.startup()
        assert [record.task_id for record in (await backend.store.search()).items] == ["held"]

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


class TestEndsThatSayNothingOfTheirTask:
    async def test_what_its_state_said_is_kept(self, backend):
        info = TaskInfo("shop:pay", worker=HERE, queued_at=now(), started_at=now())
        await backend.store.record_state("id", Status.STARTED, info)
        await backend.store.set_result("id", Outcome(1))
        record = await backend.store.get("id")
        assert (record.task_name, record.worker) == ("shop:pay", HERE)
        assert (record.queued_at, record.started_at) == (info.queued_at, info.started_at)

    async def test_the_types_are_those_of_the_arguments_and_of_the_end(self, backend):
        info = TaskInfo("shop:pay", [date(2026, 1, 1)], {"at": now()})
        await backend.store.set_result("id", Outcome(now(), labels={"at": now()}, info=info))
        await backend.store.set_result("id", Outcome("plain", labels={"at": "noon"}))
        record = await backend.store.get("id")
        assert (record.args, record.kwargs) == (info.args, info.kwargs)
        assert (record.return_value, record.labels) == ("plain", {"at": "noon"})

    async def test_an_end_has_its_types_where_there_were_none(self, backend):
        value = date(2026, 1, 1)
        for returned in ("plain", value):
            await backend.store.set_result("id", Outcome(returned))
        assert (await backend.store.get("id")).return_value == value

    @pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
    async def test_no_arguments_are_left_whose_pickles_are_gone(self, backend):
        info = TaskInfo("shop:pay", [samples.Opaque(1)], {"a": samples.Opaque(2)})
        await backend.store.set_result("id", Outcome(1, info=info))
        await backend.store.set_result("id", Outcome(2))
        record = await backend.store.get("id")
        assert (record.args, record.kwargs, record.return_value) == (None, None, 2)


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

    @pytest.mark.parametrize("recorded", [(), ("queued",), ("started",), ("queued", "started")])
    @pytest.mark.parametrize("before", ["nothing", "an error", "a requeue"])
    async def test_a_task_that_leaves_no_result_in_the_end_leaves_no_state(
        self, start_broker, backend, recorded, before
    ):
        options = {f"record_{state}": True for state in recorded}
        retries = SimpleRetryMiddleware(default_retry_label=True)
        broker = await start_broker(HeldBroker(), backend, retries, TaskInfoMiddleware(**options))

        @broker.task
        async def silent(context: Context = TaskiqDepends()):
            is_first = not {"_retries", "X-Taskiq-requeue"} & context.message.labels.keys()
            if is_first and before == "an error":
                raise ConnectionError
            if is_first and before == "a requeue":
                await context.requeue()
            raise NoResultError

        task = await silent.kiq()
        if before != "nothing":
            await broker.run_next()
            assert await backend.store.get_many([task.task_id])
        await broker.run_all()
        assert not await backend.store.get_many([task.task_id])

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

    async def test_a_result_that_another_middleware_takes_away_leaves_none(
        self, start_broker, backend, options, order
    ):
        class Silences(TaskiqMiddleware):
            def post_execute(self, _message, result):
                result.error = NoResultError()

        ours = TaskInfoMiddleware(**options)
        broker = await start_broker(InMemoryBroker(), backend, *order(ours, Silences()))

        @broker.task
        async def work():
            return 1

        task = await work.kiq()
        await broker.wait_all()
        await ours.shutdown()
        assert not await backend.store.get_many([task.task_id])

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
