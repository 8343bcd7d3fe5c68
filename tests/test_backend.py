from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import sys
import uuid
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from unittest.mock import AsyncMock, create_autospec

import pytest
from psycopg import sql
from pydantic import PostgresDsn
from road import EVERY_METHOD, finished, now, rows_in, stored
from sameness import same
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState
from taskiq.exceptions import ResultGetError
from taskiq.serializers import JSONSerializer

from taskiq_pg_json import (
    ConfigurationError,
    InvalidTaskIdError,
    JsonbResultBackend,
    JsonSerializer,
    Outcome,
    ResultDecodeError,
    ResultIsMissingError,
    Status,
    TaskInfo,
    TaskiqPgJsonError,
    TaskNotFoundError,
)

OWN_METHODS = [name for name in EVERY_METHOD if hasattr(JsonbResultBackend, name)]


class Wrapping(JsonSerializer):
    def decode(self, row, *, task_id):
        return {
            key: {"wrapped": value} for key, value in super().decode(row, task_id=task_id).items()
        }


class TestResults:
    async def test_a_result_comes_back_as_it_was_stored(self, backend):
        at = datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc)
        value = {"at": at, "pair": (1, 2.5), "none": None}
        assert await stored(backend, value) == value

    async def test_a_result_is_ready_once_it_is_stored(self, backend):
        assert await backend.is_result_ready("id") is False
        await backend.set_result("id", finished(None))
        assert await backend.is_result_ready("id") is True

    async def test_everything_else_of_a_result_comes_back_too(self, backend):
        given = finished("x", labels={"a": 1, "b": "two"}, execution_time=1.23456789)
        await backend.set_result("id", given)
        got = await backend.get_result("id")
        assert got == given
        assert got.labels == {"a": 1, "b": "two"}
        assert got.execution_time == 1.23456789
        assert got.is_err is False
        assert got.error is None

    @pytest.mark.parametrize("labels", [{}, OrderedDict(), MappingProxyType({})])
    @pytest.mark.parametrize("value", [1, (1,)])
    async def test_empty_labels_come_back_in_their_own_type(self, backend, labels, value):
        await backend.store.set_result("id", Outcome(return_value=value, labels=labels))
        got = await backend.get_result("id")
        assert same(got.labels, labels)
        assert same(got.return_value, value)

    async def test_a_result_is_all_that_taskiq_would_have_made_of_it(self, backend):
        await backend.set_result("id", finished([1], labels={"a": 1}))
        got = await backend.get_result("id")
        made = TaskiqResult.model_construct(**vars(got))
        assert (got, repr(got), got.model_dump()) == (made, repr(made), made.model_dump())
        assert got.model_fields_set == made.model_fields_set
        assert pickle.loads(pickle.dumps(got)) == copy.deepcopy(got) == got
        assert got.__getstate__() == made.__getstate__()
        assert TaskiqResult.model_validate(got.model_dump()) == got

    async def test_an_error_comes_back_as_an_error_of_its_class(self, backend):
        await backend.set_result("id", finished(is_err=True, error=KeyError("shelf", 3)))
        got = await backend.get_result("id")
        assert got.is_err is True
        assert got.return_value is None
        assert type(got.error) is KeyError
        assert got.error.args == ("shelf", 3)
        with pytest.raises(KeyError, match="shelf"):
            got.raise_for_error()

    @pytest.mark.parametrize("value", [1, {"b": 1, "a": 2}, (1,)])
    async def test_a_serializer_that_decodes_in_its_own_way_is_asked(self, start, value):
        backend = await start(serializer=Wrapping())
        assert await stored(backend, value) == {"wrapped": value}

    async def test_the_log_comes_only_when_it_is_asked_for(self, backend):
        await backend.set_result("id", finished(1, log="line 1\nlïne 2"))
        assert (await backend.get_result("id")).log is None
        assert (await backend.get_result("id", with_logs=True)).log == "line 1\nlïne 2"

    async def test_what_text_cannot_hold_is_escaped_outside_values(self, backend):
        await backend.set_result("id", finished("a\0\ud800", log="a\0b\ud800"))
        got = await backend.get_result("id", with_logs=True)
        assert (got.return_value, got.log) == ("a\0\ud800", "a\\x00b\\ud800")
        await backend.set_progress("id", TaskProgress.model_construct(state="a\0b", meta="\0"))
        progress = await backend.get_progress("id")
        assert (progress.state, progress.meta) == ("a\\x00b", "\0")

    async def test_the_last_result_of_a_task_wins(self, backend):
        await backend.set_result("id", finished(is_err=True, error=ValueError("first"), log="old"))
        await backend.set_result("id", finished("second"))
        got = await backend.get_result("id", with_logs=True)
        assert (got.return_value, got.is_err, got.error, got.log) == ("second", False, None, None)

    async def test_a_thousand_results_at_once_keep_to_their_own_tasks(self, backend):
        ids = [f"task-{number}" for number in range(1000)]
        await asyncio.gather(*(backend.set_result(id_, finished({"id": id_})) for id_ in ids))
        assert all(await asyncio.gather(*map(backend.is_result_ready, ids)))
        got = await asyncio.gather(*map(backend.get_result, ids))
        assert [result.return_value["id"] for result in got] == ids

    async def test_results_of_one_task_at_once_are_stored_in_the_order_given(self, backend):
        await asyncio.gather(*(backend.set_result("id", finished(n)) for n in range(200)))
        assert (await backend.get_result("id")).return_value == 199

    async def test_a_taskiq_task_reads_through_it(self, backend):
        task = AsyncTaskiqTask("id", backend, return_type=int)
        assert await task.is_ready() is False
        await backend.set_result("id", finished("41"))
        assert (await task.wait_result(check_interval=0.01, timeout=5)).return_value == 41

    async def test_the_row_can_be_read_by_anyone(self, backend, admin, table_name):
        await backend.set_result("id", finished({"sum": 3}, labels={"queue": "fast"}))
        row = admin.execute(
            sql.SQL(
                "SELECT status, return_value, labels, execution_time, types, pickled FROM {}"
            ).format(sql.Identifier(table_name))
        ).fetchone()
        assert row == ("SUCCESS", {"sum": 3}, {"queue": "fast"}, 0.25, None, None)


class TestAttributes:
    async def test_a_subclass_reads_what_taskiq_postgres_has(self, dsn, table_name):
        class Audited(JsonbResultBackend):
            async def set_result(self, task_id, result):
                written = self.serializer.dumpb(result.model_dump(mode="json"))
                seen.append((self.table_name, self.field_for_task_id, written[:1]))
                await super().set_result(task_id, result)

        seen = []
        backend = Audited(dsn, True, table_name, "Text", JSONSerializer(), min_size=1)
        await backend.startup()
        assert await stored(backend, 1) == 1
        await backend.shutdown()
        assert seen == [(table_name, "Text", b"{")]
        assert (backend.dsn, backend.connect_kwargs) == (dsn, {"min_size": 1})

    def test_without_one_the_serializer_is_the_one_in_use(self):
        backend = JsonbResultBackend()
        assert backend.serializer is backend.store.serializer
        assert (backend.dsn, backend.connect_kwargs) == (None, {})

    @pytest.mark.parametrize("kind", [str, PostgresDsn])
    @pytest.mark.parametrize("callable_", [True, False])
    def test_the_dsn_is_one_that_libpq_takes_and_is_shown_nowhere(self, kind, callable_):
        given = kind("postgresql+psycopg://ada:hunter2@host/shop")
        backend = JsonbResultBackend((lambda: given) if callable_ else given)
        assert backend.dsn == "postgresql://ada:hunter2@host/shop"
        assert "hunter2" not in f"{backend!r} {backend}"

    def test_it_says_which_table_it_is_of_and_never_where(self):
        backend = JsonbResultBackend("postgresql://ann:secret@host/shop", schema="shop")
        assert repr(backend) == "<JsonbResultBackend on shop.taskiq_results, json>"
        assert repr(backend.store) == "<ResultStore on shop.taskiq_results, json>"
        assert repr(backend.serializer) == "<JsonSerializer json>"

    def test_a_dsn_that_has_to_be_awaited_is_refused(self):
        async def dsn():
            return "host=localhost"

        with pytest.raises(ConfigurationError, match="async"):
            _ = JsonbResultBackend(dsn).dsn


class TestMocks:
    @pytest.mark.parametrize("name", OWN_METHODS)
    @pytest.mark.parametrize(
        "mock",
        [AsyncMock(spec=JsonbResultBackend), create_autospec(JsonbResultBackend, instance=True)],
        ids=["AsyncMock", "create_autospec"],
    )
    async def test_a_mock_can_be_awaited_wherever_the_backend_can(self, name, mock):
        await EVERY_METHOD[name](mock)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="cannot be said before Python 3.12")
    @pytest.mark.parametrize("name", OWN_METHODS)
    def test_inspect_knows_that_it_is_awaited(self, name):
        assert inspect.iscoroutinefunction(getattr(JsonbResultBackend, name))
        assert inspect.iscoroutinefunction(getattr(JsonbResultBackend(), name))


class TestMissingResults:
    async def test_a_missing_result_is_an_error_that_taskiq_knows(self, backend):
        with pytest.raises(ResultIsMissingError, match="no result of task 'nothing'") as caught:
            await backend.get_result("nothing")
        assert isinstance(caught.value, ResultGetError)
        assert isinstance(caught.value, TaskiqPgJsonError)

    async def test_a_task_with_progress_only_has_no_result(self, backend):
        await backend.set_progress("id", TaskProgress(state=TaskState.STARTED, meta={"a": 1}))
        assert await backend.is_result_ready("id") is False
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")

    async def test_a_missing_record_is_a_lookup_error(self, backend):
        with pytest.raises(TaskNotFoundError, match="'nothing'") as caught:
            await backend.store.get("nothing")
        assert isinstance(caught.value, LookupError)

    async def test_a_task_without_progress_has_none(self, backend):
        assert await backend.get_progress("nothing") is None


class TestDeleting:
    async def test_delete_takes_the_result_and_the_progress(self, backend, admin, table_name):
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished(1))
        await backend.set_result("other", finished(2))
        await backend.delete_result("id")
        assert await backend.get_progress("id") is None
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == 1
        assert rows_in(admin, f"{table_name}_progress") == 0

    async def test_delete_says_whether_there_was_a_result(self, backend, admin, table_name):
        store = backend.store
        await store.record_state("queued", Status.QUEUED, TaskInfo("shop:pay"))
        await store.set_result("ended", Outcome(1))
        await store.set_result("expired", Outcome(1))
        expire = sql.SQL("UPDATE {} SET expires_at = now() WHERE task_id = 'expired'")
        admin.execute(expire.format(sql.Identifier(table_name)))
        ids = ["queued", "ended", "expired", "nothing"]
        assert await asyncio.gather(*map(store.delete, ids)) == [False, True, False, False]
        assert rows_in(admin, table_name) == 0

    async def test_delete_takes_progress_that_has_no_result(self, backend):
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.delete_result("id")
        assert await backend.get_progress("id") is None

    async def test_deleting_what_is_not_there_is_no_error(self, backend):
        await backend.delete_result("nothing")

    async def test_results_that_are_not_kept_go_once_they_are_read(self, start, admin, table_name):
        backend = await start(keep_results=False)
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished({"a": 1}, log="log"))
        assert await backend.is_result_ready("id")
        assert await backend.get_progress("id") is not None
        assert (await backend.get_result("id", with_logs=True)).log == "log"
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == rows_in(admin, f"{table_name}_progress") == 0

    async def test_a_result_that_cannot_be_decoded_is_never_deleted(self, start, admin, table_name):
        backend = await start(keep_results=False)
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished(datetime(2024, 1, 1, tzinfo=timezone.utc)))
        admin.execute(
            sql.SQL("UPDATE {} SET return_value = '\"no date\"'").format(sql.Identifier(table_name))
        )
        with pytest.raises(ResultDecodeError, match="id"):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == rows_in(admin, f"{table_name}_progress") == 1

    async def test_a_damaged_sidecar_is_a_decode_error_that_shows_the_plain_value(
        self, backend, admin, table_name
    ):
        await backend.set_result("id", finished({"a": 1}))
        admin.execute(sql.SQL("UPDATE {} SET types = '[1, 2]'").format(sql.Identifier(table_name)))
        with pytest.raises(ResultDecodeError) as caught:
            await backend.get_result("id")
        assert caught.value.task_id == "id"


class TestTimeToLive:
    @pytest.mark.parametrize("ttl", [90, 90.0, timedelta(seconds=90)])
    async def test_a_result_expires_that_long_after_it_was_stored(self, start, ttl):
        backend = await start(result_ttl=ttl)
        await backend.set_result("id", finished(1))
        record = await backend.store.get("id")
        assert record.expires_at - record.finished_at == timedelta(seconds=90)

    @pytest.mark.parametrize("late", [timedelta(hours=2), -timedelta(hours=2)])
    async def test_a_worker_whose_clock_is_wrong_changes_nothing_of_it(self, start, late):
        backend = await start(result_ttl=60)
        ended = now() - late
        info = TaskInfo("task", started_at=ended, finished_at=ended)
        await backend.store.set_result("id", Outcome(1, info=info))
        assert (await backend.get_result("id")).return_value == 1
        record = await backend.store.get("id")
        assert abs(record.expires_at - now() - timedelta(seconds=60)) < timedelta(seconds=20)

    @pytest.mark.parametrize("days", [1, 60, 120, 200])
    async def test_a_day_has_24_hours_whatever_the_clocks_of_the_session_s_zone_do(
        self, start, days
    ):
        kwargs = {"options": "-c TimeZone=Europe/Berlin"}
        backend = await start(result_ttl=timedelta(days=days), kwargs=kwargs)
        await backend.set_result("id", finished(1))
        record = await backend.store.get("id")
        assert record.expires_at - record.finished_at == timedelta(days=days)

    async def test_without_a_ttl_results_stay(self, backend):
        await backend.set_result("id", finished(1))
        assert (await backend.store.get("id")).expires_at is None

    async def test_an_expired_result_is_no_longer_there(self, start, admin, table_name):
        backend = await start(result_ttl=3600)
        await asyncio.gather(*(backend.set_result(id_, finished(id_)) for id_ in ("old", "new")))
        admin.execute(
            sql.SQL("UPDATE {} SET expires_at = now() WHERE task_id = 'old'").format(
                sql.Identifier(table_name)
            )
        )
        assert await backend.is_result_ready("old") is False
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("old")
        assert (await backend.get_result("new")).return_value == "new"
        assert list(await backend.store.get_many(["old", "new"])) == ["new"]

    @pytest.mark.parametrize("ever", ["infinity", "20000-01-01", "9999-12-31 23:59:59Z"])
    async def test_a_row_that_was_set_to_stay_for_ever_is_read_as_one(
        self, start, admin, table_name, ever
    ):
        backend = await start(result_ttl=3600)
        await backend.set_result("id", finished(1))
        admin.execute(
            sql.SQL("UPDATE {} SET expires_at = %s").format(sql.Identifier(table_name)), [ever]
        )
        assert (await backend.get_result("id")).return_value == 1
        assert (await backend.store.get("id")).expires_at is None
        assert [record.expires_at for record in (await backend.store.search()).items] == [None]

    async def test_an_expired_result_may_be_written_again(self, start, admin, table_name):
        backend = await start(result_ttl=3600)
        await backend.set_result("id", finished(1))
        admin.execute(
            sql.SQL("UPDATE {} SET expires_at = now()").format(sql.Identifier(table_name))
        )
        await backend.set_result("id", finished(2))
        assert (await backend.get_result("id")).return_value == 2

    async def test_a_ttl_may_be_very_long(self, start):
        backend = await start(result_ttl=timedelta(days=5_000 * 365))
        await backend.set_result("id", finished(1))
        assert (await backend.store.get("id")).expires_at.year > 7_000

    @pytest.mark.parametrize(
        "ttl", [0, -1, timedelta(0), "1 day", float("nan"), 1e300, timedelta.max]
    )
    def test_a_ttl_that_cannot_be_is_refused(self, ttl):
        with pytest.raises(ConfigurationError, match="result_ttl="):
            JsonbResultBackend(result_ttl=ttl)


class TestTaskIds:
    @pytest.mark.parametrize("type_", ["VarChar", "Text"])
    @pytest.mark.parametrize("task_id", ["", "a b", "ünï☃", "'; DROP TABLE x --", "x" * 1000, "%s"])
    async def test_text_ids_may_be_any_text(self, start, type_, task_id):
        backend = await start(field_for_task_id=type_)
        await backend.set_progress(task_id, TaskProgress(state="s", meta=1))
        await backend.set_result(task_id, finished(1))
        assert await backend.is_result_ready(task_id)
        assert (await backend.get_result(task_id)).return_value == 1
        assert (await backend.get_progress(task_id)).meta == 1
        assert (await backend.store.get(task_id)).task_id == task_id
        await backend.delete_result(task_id)
        assert not await backend.is_result_ready(task_id)

    async def test_a_uuid_may_be_spelled_in_any_way(self, start):
        backend = await start(field_for_task_id="Uuid")
        id_ = uuid.uuid4()
        spellings = [id_.hex, str(id_), str(id_).upper(), f"{{{id_}}}", id_.urn, id_]
        for number, written in enumerate(spellings):
            await backend.set_result(written, finished(number))
            await backend.set_progress(written, TaskProgress(state="s", meta=number))
            for read in spellings:
                assert await backend.is_result_ready(read)
                assert (await backend.get_result(read)).return_value == number
                assert (await backend.get_progress(read)).meta == number
        records = await backend.store.get_many(map(str, spellings))
        assert {record.task_id for record in records.values()} == {str(id_)}
        await backend.delete_result(id_.urn)
        assert not await backend.is_result_ready(str(id_))

    @pytest.mark.parametrize(
        "task_id", ["0x" + "1" * 30, "+" + "1" * 31, " " + "1" * 31, "1" * 31 + "\n", "\u0661" * 32]
    )
    async def test_what_int_takes_for_a_number_is_no_uuid(self, start, task_id):
        backend = await start(field_for_task_id="Uuid")
        with pytest.raises(InvalidTaskIdError, match="not a UUID"):
            await backend.set_result(task_id, finished(1))

    async def test_every_spelling_of_a_uuid_gets_its_record(self, start):
        backend = await start(field_for_task_id="Uuid")
        id_ = uuid.uuid4()
        await backend.set_result(id_.hex, finished(1))
        assert {*await backend.store.get_many([id_.hex, str(id_)])} == {id_.hex, str(id_)}

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_other_ids_are_refused_where_uuids_are_stored(self, start, call):
        backend = await start(field_for_task_id="Uuid")
        with pytest.raises(InvalidTaskIdError, match=r"'id' is not a UUID.*'VarChar' or 'Text'"):
            await call(backend)

    @pytest.mark.parametrize(
        ("task_id", "reason"),
        [
            (7, r"7 is no str: give str\(task_id\)"),
            (None, "None is no str"),
            (b"bytes", "b'bytes' is no str"),
            ("nul\0", "NUL character: remove it"),
            ("\ud800", "Unicode.*: remove"),
            ("x" * 1001, "1001 bytes.*shorter"),
            ("表" * 700, "2100 bytes.*shorter"),
        ],
    )
    async def test_an_id_that_cannot_be_stored_is_refused(self, backend, task_id, reason):
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.set_result(task_id, finished(1))
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.get_result(task_id)
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.set_progress(task_id, TaskProgress(state="s", meta=1))

    async def test_a_refused_id_harms_nobody_beside_it(self, backend):
        given = [backend.set_result(id_, finished(1)) for id_ in ("a", "nul\0", "b")]
        first, refused, second = await asyncio.gather(*given, return_exceptions=True)
        assert isinstance(refused, InvalidTaskIdError)
        assert first is second is None
        assert await backend.is_result_ready("a")
        assert await backend.is_result_ready("b")
