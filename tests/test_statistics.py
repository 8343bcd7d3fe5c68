from __future__ import annotations

import math
import re
import uuid
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from seeds import NOW, PaymentError, ago, finish, unfinished

from taskiq_pg_json import FilterError, ResultStore
from taskiq_pg_json.schema import sql_directory

MIDNIGHT = datetime(2026, 3, 4, tzinfo=timezone.utc)
FIRST = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
LAST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))


async def test_stats_are_the_numbers_of_each_task(store):
    for number, seconds in enumerate([1.0, 2.0, 3.0, 4.0]):
        error = ValueError("no") if number == 3 else None
        await finish(store, f"a{number}", error=error, task="a", seconds=seconds, waited=number)
    await finish(store, "b", task="b", seconds=0.5, waited=0)
    await unfinished(store)
    a, b = await store.stats()
    assert a.group == {"task_name": "a"}
    assert (a.total, a.failed, a.failure_rate) == (4, 1, 0.25)
    assert (a.average_duration, a.max_duration) == (2.5, 4.0)
    assert a.percentiles == {50: 2.0, 95: 4.0, 99: 4.0}
    assert (a.average_wait, a.max_wait) == (1.5, 3.0)
    assert (b.total, b.failure_rate, b.percentiles[50]) == (1, 0, 0.5)


async def test_no_percentile_is_further_off_than_one_percent(store, admin, table_name):
    """The worst there can be: one at one end of a class, and all others at the other end."""
    lower = math.exp(100 / 100.5)
    await finish(store, "lower", seconds=lower * (1 + 1e-12))
    admin.execute(
        f"INSERT INTO {table_name} (task_id, task_name, status, finished_at, execution_time) "
        "SELECT i, 'shop:charge', 'SUCCESS', now(), %s FROM generate_series(1, 5000) AS i",
        [math.exp(101 / 100.5) * (1 - 1e-12)],
    )
    (row,) = await store.stats(percentiles=[0, 100])
    assert lower < row.percentiles[0] == row.percentiles[100] <= 1.01 * lower


async def test_a_percentile_is_within_one_percent(store, admin, table_name):
    admin.execute(
        f"INSERT INTO {table_name} (task_id, task_name, status, finished_at, execution_time) "
        "SELECT i, 'many', 'SUCCESS', now(), exp(i / 700.0 - 7) FROM generate_series(1, 5000) AS i"
    )
    shares = (1, 25, 50, 90, 99, 99.9)
    (row,) = await store.stats(percentiles=shares)
    exact = admin.execute(
        "SELECT percentile_disc(%s::float8[]) WITHIN GROUP (ORDER BY execution_time) "
        f"FROM {table_name}",
        [[share / 100 for share in shares]],
    ).fetchone()[0]
    assert list(row.percentiles.values()) == pytest.approx(exact, rel=0.01)
    assert row.max_duration == max(exact[-1], row.max_duration)


@pytest.mark.parametrize("bucket", [None, "hour"])
async def test_a_thousandth_of_a_thousand_durations_is_one(store, admin, table_name, bucket):
    admin.execute(
        f"INSERT INTO {table_name} (task_id, task_name, status, finished_at, execution_time) "
        "SELECT i, 'many', 'SUCCESS', %s, CASE WHEN i <= 999 THEN 1 ELSE 3600 END "
        "FROM generate_series(1, 1000) AS i",
        [MIDNIGHT],
    )
    (row,) = await store.stats(percentiles=[99.9, 99.91, True], bucket=bucket)
    assert list(row.percentiles.values()) == [1, 3600, 1]


async def test_a_duration_that_is_zero_or_unknown_is_no_trouble(store, admin, table_name):
    await finish(store, "zero", task="a", seconds=0.0)
    await finish(store, "unknown", task="b")
    admin.execute(f"UPDATE {table_name} SET execution_time = NULL WHERE task_id = 'unknown'")
    zero, unknown = await store.stats(percentiles=[50])
    assert (zero.percentiles, zero.average_duration) == ({50: 0.0}, 0.0)
    assert (unknown.percentiles, unknown.average_duration) == ({50: None}, None)
    assert unknown.total == 1


async def test_a_duration_whose_square_no_number_holds_has_an_average(store, admin, table_name):
    for number, seconds in enumerate([1.0, 1e200]):
        await finish(store, str(number), ended=MIDNIGHT)
        admin.execute(
            f"UPDATE {table_name} SET execution_time = %s WHERE task_id = %s",
            [seconds, str(number)],
        )
    for bucket in (None, "minute", "hour"):
        (row,) = await store.stats(bucket=bucket)
        assert row.average_duration == 5e199
    for view in ("stats", "stats_hourly"):
        averages = admin.execute(f"SELECT average_duration FROM {table_name}_{view}")
        assert averages.fetchall() == [(5e199,)]


async def test_stats_can_be_grouped_by_more_or_by_nothing(store):
    await finish(store, "1", task="a", worker="w1")
    await finish(store, "2", task="a", worker="w2", error=PaymentError())
    await finish(store, "3", task="b", worker="w2", error=ValueError())
    rows = await store.stats(by=("worker", "status"))
    assert [(row.group, row.total) for row in rows] == [
        ({"worker": "w1", "status": "SUCCESS"}, 1),
        ({"worker": "w2", "status": "FAILURE"}, 2),
    ]
    assert [row.group["error_type"] for row in await store.stats(by="error_type")] == [
        "PaymentError", "ValueError", None,
    ]  # fmt: skip
    (total,) = await store.stats(by=())
    assert (total.group, total.total, total.failed) == ({}, 3, 2)
    assert await store.stats(by=(), task_name="none") == []
    assert [row.total for row in await store.stats(by=(), status="FAILURE")] == [2]


async def test_columns_of_the_table_s_owner_change_no_group(store, admin, table_name):
    for number in range(4):
        error = PaymentError("no") if number % 2 else ValueError("no")
        await finish(store, str(number), error=error, ended=ago(hours=number // 2))
    asked = {"by": ["error_type"], "since": timedelta(days=1), "bucket": "hour"}
    before = await store.stats(**asked)
    for column in ("error_type", "bucket", "failed", "wait"):
        admin.execute(f"ALTER TABLE {table_name} ADD {column} text DEFAULT 'own'")
    assert await store.stats(**asked) == before
    assert {row.group["error_type"] for row in before} == {"PaymentError", "ValueError"}


async def test_buckets_begin_in_utc_and_have_no_gaps(store):
    await finish(store, "1", ended=MIDNIGHT + timedelta(minutes=59, seconds=59))
    await finish(store, "2", ended=MIDNIGHT + timedelta(hours=1))
    await finish(store, "3", ended=MIDNIGHT + timedelta(hours=4), task="other")
    rows = await store.stats(by=(), bucket="hour")
    assert [(row.bucket.hour, row.total) for row in rows] == [
        (0, 1),
        (1, 1),
        (2, 0),
        (3, 0),
        (4, 1),
    ]
    assert rows[0].bucket == MIDNIGHT
    assert (rows[2].failure_rate, rows[2].percentiles) == (None, {50: None, 95: None, 99: None})
    by_task = await store.stats(
        bucket="hour", since=MIDNIGHT - timedelta(hours=1), until=MIDNIGHT + timedelta(hours=3)
    )
    assert [(row.group["task_name"], row.bucket.hour, row.total) for row in by_task] == [
        ("shop:charge", 23, 0),
        ("shop:charge", 0, 1),
        ("shop:charge", 1, 1),
        ("shop:charge", 2, 0),
    ]


@pytest.mark.parametrize(
    ("bucket", "begins"),
    [
        ("minute", MIDNIGHT + timedelta(hours=13, minutes=37)),
        ("hour", MIDNIGHT + timedelta(hours=13)),
        (timedelta(minutes=5), MIDNIGHT + timedelta(hours=13, minutes=35)),
        ("day", MIDNIGHT),
        ("week", datetime(2026, 3, 2, tzinfo=timezone.utc)),
    ],
)
async def test_a_bucket_begins_at_a_round_time(store, bucket, begins):
    await finish(store, "1", ended=MIDNIGHT + timedelta(hours=13, minutes=37, seconds=12))
    (row,) = await store.stats(by=(), bucket=bucket)
    assert (row.bucket, row.total) == (begins, 1)


async def test_buckets_do_not_depend_on_the_session_s_zone(store, table_name, dsn):
    await finish(store, "1", ended=MIDNIGHT)
    kwargs = {"options": "-c timezone=Asia/Kathmandu"}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as elsewhere:
        (row,) = await elsewhere.stats(by=(), bucket="day")
    assert row.bucket == MIDNIGHT


async def test_buckets_are_those_of_utc_whatever_the_zone_of_the_bounds(store):
    berlin = ZoneInfo("Europe/Berlin")  # where 2 o'clock did not exist on that day
    midnight = datetime(2026, 3, 29, tzinfo=berlin).astimezone(timezone.utc)
    for number in range(6):
        await finish(store, str(number), ended=midnight + timedelta(hours=number))
    since, until = datetime(2026, 3, 29, tzinfo=berlin), datetime(2026, 3, 29, 7, tzinfo=berlin)
    hours = await store.stats(by=(), bucket="hour", since=since, until=until)
    assert [(row.bucket, row.total) for row in hours] == [
        (midnight + timedelta(hours=number), 1) for number in range(6)
    ]
    (saturday, sunday) = await store.stats(by=(), bucket="day", since=since, until=until)
    assert (saturday.bucket.isoformat(), saturday.total) == ("2026-03-28T00:00:00+00:00", 1)
    assert (sunday.bucket.isoformat(), sunday.total) == ("2026-03-29T00:00:00+00:00", 5)


@pytest.mark.parametrize("bucket", [None, "minute", "hour"])
async def test_an_end_that_is_infinite_is_in_no_statistics(store, admin, table_name, bucket):
    for number in range(6):
        error = ValueError("no") if number % 2 else None
        await finish(store, f"{number}", error=error, ended=MIDNIGHT)
    for end, ids in {"infinity": ["0", "1"], "-infinity": ["2", "3"]}.items():
        admin.execute(
            f"UPDATE {table_name} SET finished_at = %s WHERE task_id = ANY (%s)", [end, ids]
        )
    for _ in range(2):  # from the rows, and from the rollup
        (row,) = await store.stats(bucket=bucket)
        assert (row.total, row.failed) == (2, 1)
        assert [group.total for group in await store.failures()] == [1]
        await store.refresh_rollup()


@pytest.mark.parametrize("bucket", [None, "minute", "hour"])
async def test_there_need_be_no_percentiles(store, bucket):
    await finish(store, "1", ended=MIDNIGHT)
    await store.refresh_rollup()
    (row,) = await store.stats(percentiles=(), bucket=bucket)
    assert (row.total, row.percentiles) == (1, {})


async def test_rows_are_a_data_frame(store):
    await finish(store, "1", seconds=2.0)
    frame = pd.DataFrame((await store.stats(bucket="hour")).to_dicts())
    assert list(frame.columns) == [
        "task_name", "bucket", "total", "failed", "failure_rate", "average_duration", "p50", "p95",
        "p99", "max_duration", "average_wait", "max_wait",
    ]  # fmt: skip
    assert frame["p95"][0] == 2.0


async def test_failures_are_grouped_by_their_cause(store):
    for number in range(4):
        ended = ago(hours=number * 20)
        error = PaymentError(f"Card {number} was declined")
        await finish(store, f"p{number}", error=error, ended=ended)
    await finish(store, "v", error=ValueError("bad"), task="other")
    await finish(store, "fine")
    payment, value = await store.failures(samples=2)
    assert (payment.task_name, payment.error_type) == ("shop:charge", "PaymentError")
    assert payment.message == "Card 0 was declined"
    assert (payment.total, payment.last_hour, payment.last_day, payment.last_week) == (4, 1, 2, 4)
    assert (payment.first_seen, payment.last_seen) == (ago(hours=60), NOW)
    assert payment.sample_ids == ("p0", "p1")
    assert (value.error_type, value.total) == ("ValueError", 1)
    assert await store.count(fingerprint=payment.fingerprint) == 4
    assert [group.total for group in await store.failures(since=ago(hours=30), limit=1)] == [2]
    assert [group.error_type for group in await store.failures(task_name="other")] == ["ValueError"]
    assert value.to_dict()["sample_ids"] == ("v",)


@pytest.mark.parametrize("kind", ["VarChar", "Text", "Uuid"])
async def test_samples_are_the_newest_failures_and_of_one_moment_the_last_ids(
    pool, table_name, kind
):
    ids = [str(uuid.UUID(int=number)) for number in range(7)]
    async with ResultStore(pool=pool, table_name=table_name, field_for_task_id=kind) as store:
        for number, task_id in enumerate(ids):
            error = PaymentError(f"Card {number} was declined")
            await finish(store, task_id, error=error, ended=ago(hours=1 if number % 2 else 2))
        (group,) = await store.failures(samples=4)
        assert group.sample_ids == (ids[5], ids[3], ids[1], ids[6])
        assert (group.message, group.total) == ("Card 5 was declined", 7)
        (group,) = await store.failures(samples=100)
        assert len(group.sample_ids) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "colour"}, "task_name"),
        ({"by": ["task_name", "task_name"]}, "once"),
        ({"by": None}, "by=None"),
        ({"by": [["task_name"]]}, "by="),
        ({"bucket": "month"}, "minute, hour, day, week"),
        ({"bucket": ["hour"]}, r"bucket=\['hour'\].*minute, hour, day, week"),
        ({"bucket": {}}, "bucket={}.*minute, hour, day, week"),
        ({"bucket": timedelta(0)}, "a second or more"),
        ({"since": FIRST}, "since=.* too far"),
        ({"until": LAST}, "until=.* too far"),
        ({"bucket": "week", "since": datetime.min.replace(tzinfo=timezone.utc)}, "buckets"),
        (
            {"bucket": timedelta(days=10), "since": datetime.min.replace(tzinfo=timezone.utc)},
            "no bucket.*later since=",
        ),
        ({"bucket": timedelta.max, "since": timedelta(days=1)}, "bucket=.* too wide"),
        ({"bucket": "minute", "since": timedelta(days=30)}, "buckets"),
        ({"percentiles": [101]}, "between 0 and 100"),
        ({"percentiles": ["p50"]}, "between 0 and 100"),
        ({"percentiles": 95}, "percentiles=95.*list"),
        ({"percentiles": "95"}, "percentiles='95'.*list"),
        ({"timeout": "1"}, "timeout='1'"),
        ({"percentiles": [float("nan")]}, "between 0 and 100"),
        ({"status": "ODD"}, "ODD"),
    ],
)
async def test_an_argument_that_cannot_work_is_a_clear_error(store, arguments, message):
    await finish(store, "1")
    with pytest.raises(FilterError, match=message):
        await store.stats(**arguments)


def test_durations_are_classed_alike_wherever_they_are():
    found = [
        re.sub(r"\bresult\.", "", made)
        for path in sorted(sql_directory().rglob("*.sql"))
        for made in re.findall(r"floor\(.* ln\(.*execution_time.*?\)\)+", path.read_text("utf-8"))
    ]
    # of the view, the server's statistics, the rollup counted and not, and the rows
    assert [made.rstrip(")") for made in found] == [
        "floor(100.5 * ln(greatest(execution_time, 1e-6"
    ] * 5


async def test_rows_that_would_fill_the_memory_are_a_clear_error(store, admin, table_name):
    admin.execute(
        f"INSERT INTO {table_name} (task_id, worker, status, finished_at) "
        "SELECT i, 'worker ' || i, 'SUCCESS', %s FROM generate_series(1, 60) AS i",
        [MIDNIGHT],
    )
    with pytest.raises(FilterError, match="60 groups in 9000 buckets"):
        await store.stats(by="worker", bucket=timedelta(seconds=2), since=MIDNIGHT,
                          until=MIDNIGHT + timedelta(seconds=18_000))  # fmt: skip


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"limit": 10**6}])
async def test_failures_have_limits(store, arguments):
    with pytest.raises(FilterError, match="1 to 10000"):
        await store.failures(**arguments)
