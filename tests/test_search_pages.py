from __future__ import annotations

import json

import pytest
from seeds import NOW, ago, finish, ids, orders, unfinished

from taskiq_pg_json import FilterError, ResultStore

ORDERS = ["finished_at", "started_at", "queued_at", "execution_time", "task_id"]
ALL_ORDERS = [*ORDERS, *(f"-{order}" for order in ORDERS)]


@pytest.fixture
async def busy(store):
    """Twelve tasks that have ended, two of them at once, and three that have not."""
    await orders(store, 12)
    await finish(store, "order-3b", ended=ago(minutes=3), seconds=4.0)
    await unfinished(store)
    return store


async def pages(store, limit, cursor=None, **arguments):
    found = [await store.search(limit=limit, cursor=cursor, **arguments)]
    while found[-1].next_cursor is not None:
        found.append(await store.search(limit=limit, cursor=found[-1].next_cursor, **arguments))
    return found


def all_ids(found) -> list[str]:
    return [task_id for page in found for task_id in ids(page)]


@pytest.mark.parametrize("order_by", ALL_ORDERS)
@pytest.mark.parametrize("limit", [1, 4, 15])
async def test_pages_hold_every_record_once_and_in_order(busy, order_by, limit):
    everything = ids(await busy.search(order_by=order_by))
    found = await pages(busy, limit, order_by=order_by)
    assert all_ids(found) == everything
    assert len(everything) == 16
    assert found[0].previous_cursor is None
    assert all(len(page.items) == limit for page in found[:-1])


@pytest.mark.parametrize("order_by", ALL_ORDERS)
@pytest.mark.parametrize("limit", [1, 4, 15])
async def test_pages_read_backwards_are_the_same_pages(busy, order_by, limit):
    found = await pages(busy, limit, order_by=order_by)
    back = [found[-1]]
    while back[-1].previous_cursor is not None:
        cursor = back[-1].previous_cursor
        back.append(await busy.search(limit=limit, cursor=cursor, order_by=order_by))
    assert list(map(ids, reversed(back))) == list(map(ids, found))


async def test_descending_is_ascending_turned_round(busy):
    for order in ORDERS:
        upwards = ids(await busy.search(order_by=order))
        assert ids(await busy.search(order_by=f"-{order}")) == upwards[::-1]


async def test_rows_without_the_value_are_the_largest(busy):
    page = await busy.search(order_by="started_at")
    assert page.items[-1].task_id == "queued"


@pytest.fixture(scope="module")
def seeded(admin):
    """A table of 6,000 rows: a value that most have, but not the newest, and one that few have."""
    schema = "pages_by_index"
    table = f"{schema}.taskiq_results"
    admin.execute(f"CREATE SCHEMA {schema}")
    admin.execute(ResultStore(schema=schema).schema_sql())
    admin.execute(
        f"""
        INSERT INTO {table} (task_id, task_name, status, return_value, finished_at)
        SELECT i, 'shop:' || i % 3, CASE WHEN i % 90 = 0 THEN 'QUEUED' ELSE 'SUCCESS' END,
               jsonb_build_object('old', i > 300, 'few', i % 50, 'any', i % 2),
               CASE WHEN i % 90 <> 0 THEN now() - i / 3 * interval '1 minute' END
        FROM generate_series(1, 6000) AS i;
        ANALYZE {table}
        """
    )
    yield schema
    admin.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
async def large(pool, seeded):
    async with ResultStore(pool=pool, schema=seeded, migrate="off") as store:
        yield store


@pytest.mark.parametrize("limit", [4, 30, 1000])
@pytest.mark.parametrize("order_by", ["finished_at", "-finished_at", "task_id", "-task_id"])
@pytest.mark.parametrize(
    "filters",
    [
        {"return_value": {"old": True}},
        {"return_value": {"few": 7}},
        {"return_value": {"any": 1}},
        {"return_value": {"none": 1}},
        {"return_value": {"old": True}, "task_name": ["shop:1", "shop:2"]},
        {"return_value": {"few": 7}, "task_name": "shop:1"},
    ],
)
async def test_pages_are_right_however_they_are_found(large, admin, filters, order_by, limit):
    column, descending = order_by.removeprefix("-"), "DESC" if order_by[0] == "-" else ""
    rows = admin.execute(
        f"SELECT task_id, task_name FROM {large.names} WHERE return_value @> %s::jsonb"
        f" ORDER BY {column} {descending}, task_id {descending}",
        [json.dumps(filters["return_value"])],
    ).fetchall()
    tasks = filters.get("task_name", ["shop:0", "shop:1", "shop:2"])
    wanted = [task_id for task_id, task in rows if task in tasks]
    asked = {**filters, "order_by": order_by, "limit": limit, "load": []}
    found = [await large.search(**asked)]
    while (cursor := found[-1].next_cursor) and len(found) < 5:
        found.append(await large.search(cursor=cursor, **asked))
    assert all_ids(found) == wanted[: 5 * limit]
    assert (cursor is None) == (len(wanted) <= 5 * limit)
    back = [found[-1]]
    while (cursor := back[-1].previous_cursor) is not None:
        back.append(await large.search(cursor=cursor, **asked))
    assert list(map(ids, reversed(back))) == list(map(ids, found))


@pytest.mark.parametrize("task_name", ["shop:charge", ["shop:charge", "shop:mail"]])
async def test_pages_of_tasks_hold_every_record_of_them(busy, task_name):
    everything = ids(await busy.search(task_name=task_name))
    assert all_ids(await pages(busy, 2, task_name=task_name)) == everything
    assert ids([record async for record in busy.iterate(task_name=task_name)]) == everything


async def test_new_and_deleted_rows_move_no_other_row(busy):
    everything = ids(await busy.search(status="SUCCESS"))
    first = await busy.search(limit=4, status="SUCCESS")
    await finish(busy, "newer", ended=ago(minutes=-1))
    await finish(busy, "in between", ended=ago(minutes=2, seconds=30))
    await busy.delete(first.items[-1].task_id)
    second = await busy.search(limit=4, status="SUCCESS", cursor=first.next_cursor)
    assert ids(first) + ids(second) == everything[:8]
    back = await busy.search(limit=4, status="SUCCESS", cursor=second.previous_cursor)
    assert ids(back) == ["0", "1", "2", "in between"]


@pytest.mark.parametrize("order_by", ALL_ORDERS)
async def test_a_page_whose_rows_have_gone_leads_back(busy, order_by):
    everything = await busy.search(order_by=order_by)
    first = await busy.search(limit=4, order_by=order_by)
    for record in everything.items[4:]:
        await busy.delete(record.task_id)
    gone = await busy.search(limit=4, order_by=order_by, cursor=first.next_cursor)
    assert (gone.items, gone.next_cursor) == ((), None)
    back = await busy.search(limit=3, order_by=order_by, cursor=gone.previous_cursor)
    assert ids(back) == ids(first)[1:]
    rest = await busy.search(limit=3, order_by=order_by, cursor=back.previous_cursor)
    assert (ids(rest), rest.previous_cursor) == (ids(first)[:1], None)


@pytest.mark.parametrize("order_by", ALL_ORDERS)
async def test_a_page_before_which_all_have_gone_leads_on(busy, order_by):
    everything = await busy.search(order_by=order_by)
    first = await busy.search(limit=4, order_by=order_by)
    second = await busy.search(limit=4, order_by=order_by, cursor=first.next_cursor)
    for record in everything.items[:4]:
        await busy.delete(record.task_id)
    gone = await busy.search(limit=4, order_by=order_by, cursor=second.previous_cursor)
    assert (gone.items, gone.previous_cursor) == ((), None)
    found = await pages(busy, 4, gone.next_cursor, order_by=order_by)
    assert all_ids(found) == ids(everything)[4:]


async def test_pages_lead_nowhere_once_all_rows_have_gone(busy, admin, table_name):
    first = await busy.search(limit=4)
    admin.execute(f"DELETE FROM {table_name}")
    gone = await busy.search(cursor=first.next_cursor)
    back = await busy.search(cursor=gone.previous_cursor)
    assert (back.items, back.previous_cursor) == ((), None)
    await finish(busy, "new", ended=ago(minutes=30))
    assert ids(await busy.search(cursor=back.next_cursor)) == ["new"]


async def test_a_cursor_stands_in_a_url_as_it_is(busy):
    page = await busy.search(limit=1, order_by="task_id")
    assert page.next_cursor.rstrip("=").replace("-", "").replace("_", "").isalnum()


async def test_a_cursor_of_another_order_is_refused(busy):
    cursor = (await busy.search(limit=1)).next_cursor
    with pytest.raises(FilterError, match="order_by='-finished_at'"):
        await busy.search(cursor=cursor, order_by="task_id")


@pytest.mark.parametrize(
    "parts",
    [
        '["finished_at",true,"2026-01-01","a",false,false]',
        '["finished_at",true,5,"a",false,false]',
        '["finished_at",true,"x","a",false,false]',
        '["finished_at",true,null,7,false,false]',
        '["finished_at",true,null,"\\u0000",false,false]',
        '["password",true,null,"a",false,false]',
        '["finished_at",true,null]',
        '["finished_at",true,null,"a",false,true,true]',
        '["finished_at",true,"2026-01-01T00:00+00:00","\\ud800",false,false]',
        pytest.param("[" * 100_000, id="deep"),
        "[[],true,null,1,2,3]",
        "7",
    ],
)
async def test_a_forged_cursor_is_refused(busy, parts):
    from base64 import urlsafe_b64encode

    with pytest.raises(FilterError, match="is no cursor"):
        await busy.search(cursor=urlsafe_b64encode(parts.encode()).decode())


@pytest.mark.parametrize("value", ["true", '"5"', '"1_0"', "[]", "1" + "0" * 400], ids=range(5))
async def test_a_forged_cursor_by_duration_is_refused(busy, value):
    from base64 import urlsafe_b64encode

    text = f'["execution_time",false,{value},"a",false,false]'
    cursor = urlsafe_b64encode(text.encode()).decode()
    with pytest.raises(FilterError, match="is no cursor"):
        await busy.search(cursor=cursor, order_by="execution_time")


async def test_a_cursor_works_with_other_filters_as_a_place_in_the_order(busy):
    first = await busy.search(limit=8)
    page = await busy.search(cursor=first.next_cursor, task_name="shop:ship")
    assert ids(page) == ["4", "7", "10"]


async def test_a_mangled_cursor_is_refused(busy):
    cursor = (await busy.search(limit=8)).next_cursor
    for mangled in (cursor[4:], cursor[:-4], cursor.swapcase(), ""):
        with pytest.raises(FilterError, match="is no cursor"):
            await busy.search(cursor=mangled)


@pytest.mark.parametrize("limit", [2, 4, 9])
async def test_a_task_that_ends_while_a_page_is_read_is_on_it_once(busy, limit):
    first = await busy.search(limit=1)
    fetch = busy._searcher._runner.fetch

    async def fetch_and_finish(*arguments):
        rows = await fetch(*arguments)
        await finish(busy, "queued", ended=ago(minutes=-1))
        return rows

    busy._searcher._runner.fetch = fetch_and_finish
    page = await busy.search(limit=limit, cursor=first.next_cursor)
    busy._searcher._runner.fetch = fetch
    rest = [page, *await pages(busy, limit, cursor=page.next_cursor)]
    found = [ids(first), *map(ids, rest)]
    flat = [task_id for page in found for task_id in page]
    assert len(ids(page)) == len(set(ids(page)))
    assert {str(number) for number in range(12)} <= set(flat)


@pytest.mark.parametrize("order_by", ["execution_time", "-execution_time"])
async def test_durations_that_are_no_numbers_are_on_pages_too(busy, admin, table_name, order_by):
    admin.execute(f"UPDATE {table_name} SET execution_time = 'NaN' WHERE task_id = 'order-3'")
    admin.execute(f"UPDATE {table_name} SET execution_time = 'inf' WHERE task_id = 'order-4'")
    found = await pages(busy, 1, order_by=order_by)
    assert all_ids(found) == ids(await busy.search(order_by=order_by))
    assert len(all_ids(found)) == 16


async def test_uuid_tables_have_pages_too(pool, table_name):
    async with ResultStore(pool=pool, table_name=table_name, field_for_task_id="Uuid") as store:
        for number in range(5):
            await finish(store, f"00000000-0000-0000-0000-00000000000{number}", ended=NOW)
        found = await pages(store, 2)
        assert [i[-1] for i in all_ids(found)] == list("43210")
