from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
import samples
from psycopg import sql
from road import PROMPTLY, finished
from taskiq import InMemoryBroker, TaskiqDepends
from taskiq.depends.progress_tracker import ProgressTracker, TaskProgress, TaskState

from taskiq_pg_json import Progress, ResultEncodeError, Status, TaskInfoMiddleware

pytestmark = pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")


@dataclass
class Step:
    name: str
    at: datetime


class Panicking:
    def __reduce__(self):
        raise samples.PanicError("no pickle")


def progress(meta=None, state="running"):
    return TaskProgress(state=state, meta=meta)


@pytest.fixture
def outcome(backend, admin):
    """The row of a task in the outcomes view, its columns by name."""
    view = sql.Identifier(backend.store.names.derived("outcomes"))

    def read(task_id):
        cursor = admin.execute(
            sql.SQL("SELECT * FROM {} WHERE task_id = %s").format(view), [task_id]
        )
        names = [column.name for column in cursor.description]
        (row,) = cursor.fetchall()
        return dict(zip(names, row, strict=True))

    return read


async def shown(backend, outcome, meta):
    """The percent and the text of a meta: those of the view, which are those of the record."""
    await backend.set_progress("id", progress(meta))
    await backend.set_result("id", finished(1))
    row, record = outcome("id"), await backend.store.get("id")
    percent = None if row["progress_percent"] is None else float(row["progress_percent"])
    assert (record.progress.percent, record.progress.text) == (percent, row["progress_text"])
    return percent, row["progress_text"]


class TestTracking:
    async def test_a_task_reports_through_taskiqs_own_tracker(self, start_broker, backend, outcome):
        broker = await start_broker(
            InMemoryBroker(), backend, TaskInfoMiddleware(record_started=True)
        )
        seen, go_on = asyncio.Event(), asyncio.Event()

        @broker.task("shop:import")
        async def work(tracker: ProgressTracker[dict] = TaskiqDepends()):
            assert await tracker.get_progress() is None
            await tracker.set_progress(TaskState.STARTED, {"message": "reading"})
            await tracker.set_progress("halfway", {"current": 5, "total": 10, "message": "half"})
            seen.set()
            await go_on.wait()
            return "done"

        task = await work.kiq()
        await asyncio.wait_for(seen.wait(), 20)
        now = await task.get_progress()
        assert (now.state, now.meta["current"]) == ("halfway", 5)
        row = outcome(task.task_id)
        assert (row["status"], row["task_name"]) == ("STARTED", "shop:import")
        assert (row["progress_state"], row["progress_percent"], row["progress_text"]) == (
            "halfway",
            50,
            "half",
        )
        go_on.set()
        assert (await task.wait_result(**PROMPTLY)).return_value == "done"
        assert (await task.get_progress()).state == "halfway"

    @pytest.mark.parametrize("state", [*TaskState, "halfway", "", "ünï ☃", "'; --", "%s {x}"])
    async def test_a_state_is_taskiqs_own_or_any_string(self, backend, state):
        await backend.set_progress("id", progress(1, state))
        got = await backend.get_progress("id")
        assert type(got) is TaskProgress
        assert got.state == state
        assert type(got.state) is type(state)

    async def test_a_state_that_reads_like_taskiqs_own_comes_back_as_that(self, backend):
        await backend.set_progress("id", progress(1, "SUCCESS"))
        assert (await backend.get_progress("id")).state is TaskState.SUCCESS

    @pytest.mark.parametrize(
        "meta",
        [
            None,
            False,
            0,
            "",
            "text",
            [],
            {},
            [1, [2, {"a": None}]],
            {"percent": 40.5, "nested": {"list": [1, 2]}},
            (1, 2),
            {1: "one", (2, 3): "pair"},
            {Decimal("1.10"), 2},
            b"\x00\xff",
            Step("pack", datetime(2024, 2, 29, tzinfo=timezone.utc)),
            timedelta(seconds=1.5),
            "nul\0 and \ud800",
            2**100,
        ],
        ids=repr,
    )
    async def test_a_meta_may_be_anything(self, backend, meta):
        await backend.set_progress("id", progress(meta))
        got = (await backend.get_progress("id")).meta
        assert got == meta
        assert type(got) is type(meta)
        await backend.set_result("id", finished(1))
        assert (await backend.store.get("id")).progress.meta == meta

    async def test_the_last_report_wins(self, backend):
        for number in range(5):
            await backend.set_progress("id", progress(number, f"state {number}"))
        got = await backend.get_progress("id")
        assert (got.state, got.meta) == ("state 4", 4)

    async def test_the_last_of_many_reports_at_once_wins(self, backend):
        await asyncio.gather(*(backend.set_progress(f"id{n % 7}", progress(n)) for n in range(700)))
        got = await asyncio.gather(*(backend.get_progress(f"id{n}") for n in range(7)))
        assert [one.meta for one in got] == list(range(693, 700))

    async def test_a_report_of_a_state_alone_keeps_the_former_meta(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend)

        @broker.task
        async def work(tracker: ProgressTracker[object] = TaskiqDepends()):
            await tracker.set_progress("first", {"pair": (1, 2)})
            await tracker.set_progress("second")

        task = await work.kiq()
        await task.wait_result(**PROMPTLY)
        got = await task.get_progress()
        assert (got.state, got.meta) == ("second", {"pair": (1, 2)})

    async def test_a_first_report_of_a_state_alone_has_no_meta(self, start_broker, backend):
        broker = await start_broker(InMemoryBroker(), backend)

        @broker.task
        async def work(tracker: ProgressTracker[object] = TaskiqDepends()):
            await tracker.set_progress("first")

        task = await work.kiq()
        await task.wait_result(**PROMPTLY)
        got = await task.get_progress()
        assert (got.state, got.meta) == ("first", None)

    async def test_progress_is_told_apart_by_task(self, backend):
        await backend.set_progress("a", progress(1))
        await backend.set_progress("b", progress(2))
        assert (await backend.get_progress("a")).meta == 1
        assert (await backend.get_progress("b")).meta == 2
        assert await backend.get_progress("c") is None

    @pytest.mark.parametrize("meta", [lambda: None, Panicking()], ids=["function", "panic"])
    async def test_a_meta_that_cannot_be_stored_is_an_error_of_the_caller_alone(
        self, backend, meta
    ):
        given = [progress("good"), progress(meta), progress("good too")]
        outcomes = await asyncio.gather(
            *(backend.set_progress(str(n), one) for n, one in enumerate(given)),
            return_exceptions=True,
        )
        assert outcomes[0] is outcomes[2] is None
        assert isinstance(outcomes[1], ResultEncodeError)
        assert outcomes[1].task_id == "1"
        assert "meta" in outcomes[1].path
        assert (await backend.get_progress("2")).meta == "good too"

    async def test_progress_says_when_it_was_reported(self, backend):
        await backend.set_progress("id", progress(1))
        await backend.set_result("id", finished(1))
        record = await backend.store.get("id")
        assert isinstance(record.progress, Progress)
        assert record.progress.updated_at.utcoffset() == timedelta(0)
        assert record.progress.updated_at <= record.finished_at

    async def test_what_is_pickled_of_progress_is_told_from_what_is_of_the_result(self, backend):
        await backend.set_result("id", finished(samples.Opaque(1)))
        await backend.set_progress("id", progress(samples.Opaque(2)))
        record = await backend.store.get("id")
        assert (record.return_value.value, record.progress.meta.value) == (1, 2)

    async def test_a_task_without_progress_has_a_record_without(self, backend, outcome):
        await backend.set_result("id", finished(1))
        assert (await backend.store.get("id")).progress is None
        assert outcome("id")["progress_state"] is None

    async def test_a_task_of_which_there_is_only_progress_is_a_started_row_of_the_view(
        self, backend, outcome
    ):
        await backend.set_progress("id", progress({"percent": 10, "message": "go"}, "warm"))
        row = outcome("id")
        assert (row["status"], row["progress_state"]) == (Status.STARTED, "warm")
        assert (row["progress_percent"], row["progress_text"]) == (10, "go")
        assert row["finished_at"] is None

    async def test_a_task_is_one_row_of_the_view_whatever_is_known_of_it(self, backend, outcome):
        await backend.set_progress("id", progress({"percent": 10}))
        await backend.set_result("id", finished({"a": 1}))
        row = outcome("id")
        assert (row["status"], row["return_value"], row["progress_meta"]) == (
            "SUCCESS",
            {"a": 1},
            {"percent": 10},
        )


class TestPercentAndText:
    @pytest.mark.parametrize(
        ("meta", "percent"),
        [
            ({"percent": 40}, 40),
            ({"percent": 40.25}, 40.3),
            ({"percent": 0.4}, 0.4),
            ({"percent": 100}, 100),
            ({"progress": 0.4}, 40),
            ({"progress": 0}, 0),
            ({"progress": 1}, 100),
            ({"progress": 0.12345}, 12.3),
            ({"progress": 62.5}, 62.5),
            ({"current": 4, "total": 10}, 40),
            ({"current": 1, "total": 3}, 33.3),
            ({"current": 0, "total": 10}, 0),
            ({"current": 10, "total": 10}, 100),
            ({"current": 2.5, "total": 10}, 25),
            ({"percent": 40, "current": 1, "total": 10}, 40),
            ({"percent": None, "current": 1, "total": 10}, 10),
        ],
        ids=repr,
    )
    async def test_the_common_shapes_show_a_percent(self, backend, outcome, meta, percent):
        assert await shown(backend, outcome, meta) == (percent, None)

    @pytest.mark.parametrize(
        ("meta", "percent"),
        [
            ('{"current": 1e131070, "total": 3}', 100),
            ('{"current": 3, "total": 1e131070}', 0),
            ('{"current": -1e131070, "total": 3}', 0),
            ('{"current": -2, "total": -5}', 40),
            ('{"progress": -1e131070}', 0),
        ],
    )
    async def test_numbers_that_only_sql_writes_spoil_no_search(
        self, backend, admin, table_name, meta, percent
    ):
        await backend.set_progress("id", progress({}))
        await backend.set_result("id", finished(1))
        admin.execute(f"UPDATE {table_name}_progress SET meta = %s", [meta])
        shown = admin.execute(f"SELECT progress_percent FROM {table_name}_outcomes").fetchall()
        assert shown == [(percent,)]
        assert len((await backend.store.search()).items) == 1

    @pytest.mark.parametrize(
        ("meta", "text"),
        [
            ({"message": "packing"}, "packing"),
            ({"status": "packing"}, "packing"),
            ({"message": "packing", "status": "busy"}, "packing"),
            ({"message": None, "status": "busy"}, "busy"),
            ({"message": ""}, ""),
            ("packing", "packing"),
            ({"message": "ünï ☃ 'quoted' \"twice\" \n line"}, "ünï ☃ 'quoted' \"twice\" \n line"),
        ],
        ids=repr,
    )
    async def test_the_common_shapes_show_a_text(self, backend, outcome, meta, text):
        assert await shown(backend, outcome, meta) == (None, text)

    async def test_percent_and_text_come_together(self, backend, outcome):
        meta = {"current": 4, "total": 10, "message": "four of ten"}
        assert await shown(backend, outcome, meta) == (40, "four of ten")

    @pytest.mark.parametrize(
        "meta",
        [
            None,
            7,
            True,
            [],
            {},
            [["percent", 40]],
            ["percent"],
            {"percent": "40"},
            {"percent": {"percent": 40}},
            {"percent": [40]},
            {"progress": "0.4"},
            {"progress": True},
            {"current": 4},
            {"total": 10},
            {"current": 4, "total": 0},
            {"current": 4, "total": None},
            {"current": "4", "total": 10},
            {"current": [4], "total": {"of": 10}},
            {"message": {"text": "x"}},
            {"message": 7, "status": ["x"]},
            {"nested": {"percent": 40, "message": "deep"}},
        ],
        ids=repr,
    )
    async def test_other_shapes_show_nothing(self, backend, outcome, meta):
        assert await shown(backend, outcome, meta) == (None, None)

    @pytest.mark.parametrize(
        "meta",
        [
            {"percent": 1e308},
            {"percent": -1e308},
            {"percent": 5e-324},
            {"percent": 10**400},
            {"percent": float("nan")},
            {"percent": float("inf")},
            {"progress": 10**400},
            {"progress": -5},
            {"current": 10**400, "total": 1},
            {"current": 1, "total": 10**400},
            {"current": 1e308, "total": 5e-324},
            {"current": 1, "total": 1e-320},
            {"current": -3, "total": 10},
            {"current": 10**4_000, "total": 1},
            {"current": 1, "total": -(10**4_000)},
            {"percent": Decimal("1e400")},
            {"percent": 1000},
            {"current": 11, "total": 10},
        ],
    )
    async def test_numbers_out_of_all_bounds_break_neither_the_view_nor_the_record(
        self, backend, outcome, meta
    ):
        percent, text = await shown(backend, outcome, meta)
        assert percent is None or 0 <= percent <= 100
        assert text is None

    async def test_one_weird_meta_hides_no_other_task(self, backend, admin, outcome):
        await backend.set_progress("weird", progress({"current": 10**400, "total": 1e-320}))
        await backend.set_progress("plain", progress({"percent": 40}))
        view = sql.Identifier(backend.store.names.derived("outcomes"))
        rows = admin.execute(sql.SQL("SELECT * FROM {}").format(view)).fetchall()
        assert len(rows) == 2
        assert outcome("plain")["progress_percent"] == 40

    async def test_the_record_of_a_task_beside_a_weird_one_can_be_had(self, backend):
        await backend.set_progress("weird", progress({"percent": 10**400}))
        for task_id in ("weird", "plain"):
            await backend.set_result(task_id, finished(1))
        records = await backend.store.get_many(["weird", "plain"])
        assert {*records} == {"weird", "plain"}
