from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from taskiq_pg_json.errors import NotStartedError, WriteTimeoutError
from taskiq_pg_json.store import batch as batches
from taskiq_pg_json.store.batch import PutOffError
from taskiq_pg_json.store.batching import MicroBatcher, later


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What is put off is flushed again at once."""
    monkeypatch.setattr(batches, "_FIRST_PAUSE", 0)


class RejectedError(Exception):
    pass


class LostError(Exception):
    pass


@dataclass(frozen=True)
class Item:
    number: int
    key: str = "a"
    size: int = 1
    bad: bool = False
    slow: bool = False


@dataclass
class Server:
    """Answers each item with its number, after some turns of the event loop."""

    turns: int = 1
    lost: frozenset[int] = frozenset()
    batches: list[list[Item]] = field(default_factory=list)
    flushed: list[Item] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)

    async def flush(self, items):
        """What is slow is put off."""
        numbers = await self.flush_again(items, but=[item for item in items if item.slow])
        return [
            PutOffError() if item.slow else number
            for item, number in zip(items, numbers, strict=True)
        ]

    async def flush_again(self, items, but=()):
        keys = [item.key for item in items]
        assert not set(keys) & set(self.in_flight), "two flushes of one key at once"
        assert len(set(keys)) == len(keys), "a key twice in one batch"
        self.batches.append(list(items))
        self.in_flight += keys
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
        finally:
            for key in keys:
                self.in_flight.remove(key)
        if len(self.batches) in self.lost:
            raise LostError
        if any(item.bad for item in items):
            raise RejectedError([item.number for item in items if item.bad])
        self.flushed += [item for item in items if item not in but]
        return [item.number for item in items]


def make_batcher(server, **options):
    return MicroBatcher(
        server.flush,
        flush_again=server.flush_again,
        key=lambda item: item.key,
        size=lambda item: item.size,
        rejects=lambda error: isinstance(error, RejectedError),
        **options,
    )


async def submitted(batcher, item):
    return await batcher.submit(item)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_single_caller_is_flushed_at_once_in_its_own_task():
    flushed_by = []

    async def flush(items):
        flushed_by.append(asyncio.current_task())
        return items

    assert await MicroBatcher(flush, key=str).submit("x") == "x"
    assert flushed_by == [asyncio.current_task()]


async def test_calls_that_arrive_during_a_flush_form_the_next_batch():
    server = Server(turns=5)
    batcher = make_batcher(server)
    items = [Item(number, key=str(number)) for number in range(50)]
    assert await asyncio.gather(*map(batcher.submit, items)) == list(range(50))
    assert [len(batch) for batch in server.batches] == [1, 49]


@pytest.mark.parametrize("slow", [0, 1])
async def test_what_is_put_off_keeps_up_no_others(slow):
    goes_on = asyncio.Event()

    async def flush_again(items):
        await goes_on.wait()
        return [item.number for item in items]

    batcher = MicroBatcher(
        Server().flush,
        flush_again=flush_again,
        key=lambda item: item.key,
        choose=None,
    )
    items = [Item(number, key=str(number), slow=number == slow) for number in range(10)]
    again = Item(99, key=str(slow))
    calls = [asyncio.create_task(submitted(batcher, item)) for item in [*items, again]]
    await turns(20)
    assert [call.done() for call in calls] == [n != slow for n in range(10)] + [False]
    assert await submitted(batcher, Item(100, key="another")) == 100
    goes_on.set()
    assert await asyncio.gather(*calls) == [*range(10), 99]
    await asyncio.wait_for(batcher.close(), 5)


@dataclass
class Locks:
    """Puts off each item whose key is locked."""

    locked: set[str]
    flushed: list[int] = field(default_factory=list)

    async def flush(self, items):
        await turns(1)
        self.flushed += [item.number for item in items if item.key not in self.locked]
        return [PutOffError() if item.key in self.locked else item.number for item in items]


@pytest.mark.parametrize("size", [1, 11])
async def test_what_is_put_off_for_long_keeps_up_nothing_that_is_put_off_for_less(size):
    locks = Locks({str(number) for number in range(20)})
    batcher = MicroBatcher(
        locks.flush, key=lambda item: item.key, size=lambda item: item.size, max_bytes=10
    )
    calls = []
    for number in range(20):
        calls.append(asyncio.create_task(submitted(batcher, Item(number, str(number), size))))
        await turns(5)
    another = Item(20, "another", size)
    assert await asyncio.wait_for(submitted(batcher, another), 5) == 20
    for number in (7, 19, 0):
        locks.locked.remove(str(number))
        assert await asyncio.wait_for(calls[number], 5) == number
    assert sum(call.done() for call in calls) == 3
    locks.locked.clear()
    assert await asyncio.wait_for(asyncio.gather(*calls), 5) == list(range(20))
    assert sorted(locks.flushed) == list(range(21))
    await asyncio.wait_for(batcher.close(), 5)


async def test_what_is_put_off_in_one_batch_is_done_as_each_can_be():
    locks = Locks(set("abc"))
    batcher = MicroBatcher(locks.flush, key=lambda item: item.key)
    calls = [asyncio.create_task(submitted(batcher, Item(n, key))) for n, key in enumerate("xabc")]
    assert await calls[0] == 0
    await turns(20)
    for number, key in ((2, "b"), (3, "c"), (1, "a")):
        locks.locked.remove(key)
        assert await asyncio.wait_for(calls[number], 5) == number


async def test_no_more_is_put_off_than_may_wait():
    locks = Locks({str(number) for number in range(30)})
    batcher = MicroBatcher(locks.flush, key=lambda item: item.key, max_waiting=5, max_rows=2)
    calls = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(30)]
    await turns(200)
    assert 5 <= len(batcher._in_flight) + len(batcher._waiting) <= 10
    locks.locked.clear()
    assert await asyncio.wait_for(asyncio.gather(*calls), 5) == list(range(30))


async def test_what_stays_locked_while_it_closes_is_given_up():
    locks = Locks({"a"})
    batcher = MicroBatcher(locks.flush, key=lambda item: item.key)
    call = asyncio.create_task(submitted(batcher, Item(0)))
    await turns(5)
    await asyncio.wait_for(batcher.close(0.05), 5)
    with pytest.raises(WriteTimeoutError):
        await call


async def test_what_gets_no_further_while_it_closes_is_given_up():
    async def never(_items):
        await asyncio.Event().wait()

    batcher = MicroBatcher(Server().flush, flush_again=never, key=lambda item: item.key, lanes=1)
    items = [Item(number, key=str(number), slow=number == 5) for number in range(12)]
    calls = [asyncio.create_task(submitted(batcher, item)) for item in items]
    await turns(1)
    await asyncio.wait_for(batcher.close(0.05), 5)
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ended} == {int, WriteTimeoutError}
    assert isinstance(ended[5], WriteTimeoutError)
    assert "Given up at shutdown" in str(ended[5])


@pytest.mark.parametrize("times", [1, 2])
async def test_what_is_flushed_alone_is_given_up_too(times):
    async def never(_items):
        await asyncio.Event().wait()

    batcher = MicroBatcher(never, key=lambda item: item.key)
    call = asyncio.create_task(submitted(batcher, Item(1)))
    await turns(1)
    await asyncio.gather(*(batcher.close(0.05) for _ in range(times)))
    with pytest.raises(WriteTimeoutError):
        await asyncio.wait_for(call, 5)
    assert not batcher._is_busy()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="does not tell who has cancelled a task")
async def test_a_caller_that_is_cancelled_while_its_item_is_given_up_is_cancelled():
    async def slow_to_end(_items):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)

    batcher = MicroBatcher(slow_to_end, key=lambda item: item.key)
    call = asyncio.create_task(submitted(batcher, Item(1)))
    await turns(1)
    call.cancel()
    await batcher.close(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)


async def test_callers_in_a_closed_loop_share_batches():
    server = Server(turns=5)
    batcher = make_batcher(server)

    async def caller(key):
        for number in range(10):
            await batcher.submit(Item(number, key))

    await asyncio.gather(*(caller(str(key)) for key in range(20)))
    assert len(server.batches) <= 13


async def test_a_rejected_item_fails_alone():
    server = Server()
    batcher = make_batcher(server)
    items = [Item(number, key=str(number), bad=number == 7) for number in range(20)]
    results = await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
    assert [type(result) for result in results if isinstance(result, Exception)] == [RejectedError]
    assert isinstance(results[7], RejectedError)
    assert [result for result in results if not isinstance(result, Exception)] == [
        number for number in range(20) if number != 7
    ]


async def test_the_last_item_of_a_key_wins_in_a_batch():
    server = Server()
    batcher = make_batcher(server)
    items = [Item(number, key="same") for number in range(10)]
    await asyncio.gather(*map(batcher.submit, items))
    assert [item.number for item in server.flushed] == [0, 9]


async def test_the_item_that_is_chosen_stands_for_all_of_its_key_in_a_batch():
    server = Server()
    batcher = make_batcher(server, choose=partial(max, key=lambda item: item.number))
    items = [Item(number, key="same") for number in (0, 5, 9, 7, 8)]
    await asyncio.gather(*map(batcher.submit, items))
    assert [item.number for item in server.flushed] == [0, 9]


async def test_those_that_a_rejected_item_stood_for_are_flushed_all_the_same():
    server = Server()
    batcher = make_batcher(server)
    items = [Item(0, key="other")] + [Item(n, key="same", bad=n in {3, 5}) for n in range(1, 6)]
    answered = []

    async def caller(item):
        try:
            return await batcher.submit(item)
        finally:
            answered.append(item.number)

    results = await asyncio.gather(*map(caller, items), return_exceptions=True)
    assert [result for result in results if not isinstance(result, Exception)] == [0, 4, 4, 4, 4]
    assert results[5].args == ([5],)
    assert [item.number for item in server.flushed] == [0, 4]
    assert answered[-1] == 5, "it may yet be stored in another way, and is the later one"


async def test_what_a_rejected_item_stood_for_fails_by_itself_too():
    server = Server()
    batcher = make_batcher(server)
    items = [Item(0, key="other")] + [Item(n, key="same", bad=n > 1) for n in range(1, 4)]
    results = await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
    assert [result.args for result in results[2:]] == [([2],), ([3],)]
    assert results[:2] == [0, 1]


@pytest.mark.parametrize("count", [1, 20])
async def test_an_item_that_is_set_apart_fails_alone_with_its_error(count):
    async def flush(items):
        await turns(1)
        return [LookupError(item.number) if item.number == 0 else item.number for item in items]

    batcher = MicroBatcher(flush, key=lambda item: item.key)
    items = [Item(number, key=str(number)) for number in reversed(range(count))]
    ended = await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
    assert isinstance(ended.pop(), LookupError)
    assert ended == list(reversed(range(1, count)))


async def test_an_error_that_no_item_is_to_blame_for_is_that_of_its_part_alone():
    def is_value_error(error):
        return isinstance(error, ValueError)

    async def flush(items):
        await turns(1)
        numbers = {item.number for item in items}
        if 3 in numbers and len(numbers) > 1:
            raise ValueError("halve it")
        if 3 in numbers:
            raise LookupError("not its fault")
        return [item.number for item in items]

    batcher = MicroBatcher(flush, key=lambda item: item.key, rejects=is_value_error)
    items = [Item(number, key=str(number)) for number in range(100, 108)]
    items.insert(4, Item(3, key="3"))
    ended = await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
    assert isinstance(ended.pop(4), LookupError)
    assert ended == list(range(100, 108))


async def test_items_of_a_key_wait_for_one_another_where_each_counts():
    server = Server()
    batcher = make_batcher(server, choose=None, lanes=3)
    items = [Item(number, key=str(number % 2)) for number in range(10)]
    await asyncio.gather(*map(batcher.submit, items))
    for key in ("0", "1"):
        numbers = [item.number for item in server.flushed if item.key == key]
        assert numbers == sorted(numbers)
        assert len(numbers) == 5


async def test_an_item_that_waits_for_its_key_stays_before_later_ones():
    server = Server(turns=6)
    batcher = make_batcher(server, max_rows=2, lanes=2, choose=None)
    items = [Item(number, key) for number, key in enumerate("kkabk")]
    await asyncio.gather(*map(batcher.submit, items))
    assert [item.number for item in server.flushed if item.key == "k"] == [0, 1, 4]


async def test_a_batcher_does_not_spin_while_a_key_is_in_flight():
    batcher = make_batcher(Server(turns=500), lanes=2)
    batches, take = [], batcher._take
    batcher._take = lambda: batches.append(take()) or batches[-1]
    await asyncio.gather(*(batcher.submit(Item(number)) for number in range(2)))
    assert len(batches) < 10


async def test_a_heavy_item_stalls_nobody():
    order = []

    async def flush(items):
        await turns(50 if items[0].size > 10 else 1)
        order.extend(item.number for item in items)
        return [item.number for item in items]

    batcher = MicroBatcher(
        flush, key=lambda item: item.key, size=lambda item: item.size, max_bytes=10
    )
    heavy = asyncio.create_task(submitted(batcher, Item(0, "heavy", size=11)))
    await asyncio.sleep(0)
    small = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(1, 6)]
    await asyncio.gather(heavy, *small)
    assert order[-1] == 0


async def test_batches_are_bounded_by_rows_and_bytes():
    server = Server()
    batcher = make_batcher(server, max_rows=4, max_bytes=10)
    items = [Item(number, key=str(number), size=1 + number % 5) for number in range(40)]
    await asyncio.gather(*map(batcher.submit, items))
    assert all(len(batch) <= 4 for batch in server.batches)
    assert all(sum(item.size for item in batch[:-1]) < 10 for batch in server.batches)


async def test_callers_wait_for_room_when_too_many_are_waiting():
    server = Server(turns=3)
    batcher = make_batcher(server, max_waiting=5, max_rows=2)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(30)]
    most = 0
    while not all(task.done() for task in tasks):
        await turns(1)
        most = max(most, len(batcher._waiting))
    assert most == 5
    assert await asyncio.gather(*tasks) == list(range(30))


async def test_nobody_overtakes_those_who_wait_for_room():
    server = Server(turns=2)
    batcher = make_batcher(server, max_waiting=2, max_rows=1)
    tasks = []
    for number in range(60):
        tasks.append(asyncio.create_task(submitted(batcher, Item(number, str(number)))))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert [item.number for item in server.flushed] == list(range(60))


async def test_the_turn_of_a_caller_that_is_cancelled_on_it_is_the_next_one_s():
    batcher = make_batcher(Server(turns=3), max_waiting=1, max_rows=1)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(9)]

    async def cancel(victim):
        while not (batcher._admitted and len(batcher._turns) == 8 - victim):
            await turns(1)
        tasks[victim].cancel()

    cancelling = asyncio.gather(*map(cancel, (3, 4, 5)))
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    await cancelling
    assert [n for n, end in enumerate(ended) if end == n] == [0, 1, 2, 6, 7, 8]
    assert await asyncio.wait_for(submitted(batcher, Item(9)), 5) == 9


async def test_a_closed_batcher_has_flushed_all_and_takes_no_more():
    server = Server(turns=4)
    batcher = make_batcher(server)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(30)]
    await asyncio.sleep(0)
    await batcher.close()
    assert sorted(item.number for item in server.flushed) == list(range(30))
    assert all(task.done() for task in tasks) or await asyncio.gather(*tasks)
    with pytest.raises(NotStartedError):
        await batcher.submit(Item(99))


async def test_what_waits_for_room_is_flushed_before_it_closes():
    server = Server(turns=4)
    batcher = make_batcher(server, max_waiting=3, max_rows=2)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(30)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    assert await asyncio.gather(*tasks) == list(range(30))
    await asyncio.wait_for(closing, 5)


async def test_what_waits_for_room_is_given_up_with_the_rest():
    async def never(_items):
        await asyncio.Event().wait()

    batcher = MicroBatcher(never, key=lambda item: item.key, max_waiting=2)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(9)]
    await turns(1)
    await batcher.close(0.05)
    ended = await asyncio.wait_for(asyncio.gather(*tasks[1:], return_exceptions=True), 5)
    assert {type(end) for end in ended} == {WriteTimeoutError}
    tasks[0].cancel()


async def test_a_cancelled_caller_takes_back_only_its_own_waiting_item():
    server = Server(turns=3)
    batcher = make_batcher(server)
    tasks = [asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert sorted(item.number for item in server.flushed) == [0, 1, 3, 4]


@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("pause", range(4))
async def test_a_batcher_whose_tasks_are_cancelled_goes_on_and_closes(size, pause):
    server = Server(turns=2)
    batcher = make_batcher(server, max_bytes=5, lanes=2)
    others = asyncio.all_tasks()
    calls = [
        asyncio.create_task(submitted(batcher, Item(number, key=str(number), size=size)))
        for number in range(9)
    ]
    await turns(1 + pause)
    for task in asyncio.all_tasks() - others - set(calls):
        task.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert all(
        isinstance(end, asyncio.CancelledError) or end == number for number, end in enumerate(ended)
    )
    assert await submitted(batcher, Item(100)) == 100
    await asyncio.wait_for(batcher.close(), 5)


@pytest.mark.parametrize("pause", range(8))
async def test_a_caller_that_is_cancelled_on_its_turn_keeps_nobody_from_closing(pause):
    batcher = make_batcher(Server(turns=3), max_waiting=2)
    first, *waiting, turn = [
        asyncio.create_task(submitted(batcher, Item(number, key=str(number))))
        for number in range(4)
    ]
    await turns(1)
    for task in waiting:
        task.cancel()
    await turns(pause)
    turn.cancel()
    # Not by wait_for(), whose task would begin after the caller has gone.
    too_late = asyncio.get_running_loop().call_later(5, asyncio.current_task().cancel)
    await batcher.close()
    too_late.cancel()
    assert await first == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no eager tasks")
async def test_a_batcher_closes_where_tasks_begin_at_once():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    server = Server(turns=3)
    batcher = make_batcher(server)
    first, second = (asyncio.create_task(submitted(batcher, Item(n, str(n)))) for n in range(2))
    second.cancel()
    await asyncio.wait_for(batcher.close(), 5)
    assert await first == 0
    assert [item.number for item in server.flushed] == [0]


# What happens, in turn: an item arrives, a caller is cancelled, time passes.
arrivals = st.tuples(
    st.just("submit"),
    st.sampled_from("abc"),
    st.sampled_from([1, 1, 1, 4, 11]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, True]),
)
cancellations = st.tuples(st.just("cancel"), st.integers(0, 30))
pauses = st.tuples(st.just("wait"), st.integers(1, 6))
actions = st.one_of(arrivals, arrivals, arrivals, cancellations, pauses)
plans = st.fixed_dictionaries(
    {
        "script": st.lists(actions, max_size=10) | st.lists(actions, min_size=20, max_size=60),
        "close_at": st.integers(0, 65),
        "all_end_before": st.booleans(),
    }
)
options = st.fixed_dictionaries(
    {
        "lanes": st.integers(1, 3),
        "choose": st.sampled_from([later, None]),
        "max_waiting": st.sampled_from([1, 3, 100]),
        "max_rows": st.integers(1, 3),
    }
)
slow_or_lossy_servers = st.builds(
    Server, turns=st.integers(0, 4), lost=st.frozensets(st.integers(1, 8), max_size=2)
)


# How an event loop makes tasks: by default, or such as begin at once.
task_factories = st.sampled_from(
    [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])]
)


async def play(plan, batcher, task_factory):
    """Do what the script says, then close; the items and the tasks that submitted them."""
    asyncio.get_running_loop().set_task_factory(task_factory)
    items, tasks = [], []
    for action in plan["script"][: plan["close_at"]]:
        if action[0] == "submit":
            item = Item(len(items), *action[1:])
            items.append(item)
            tasks.append(asyncio.create_task(submitted(batcher, item)))
        elif action[0] == "wait":
            await turns(action[1])
        elif action[1] < len(tasks):
            tasks[action[1]].cancel()
    if plan["all_end_before"]:
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)
    await asyncio.wait_for(batcher.close(), timeout=5)
    await turns(3)
    return items, tasks


@given(plan=plans, options=options, server=slow_or_lossy_servers, task_factory=task_factories)
def test_every_accepted_item_ends_exactly_once(plan, options, server, task_factory):
    batcher = make_batcher(server, max_bytes=10, **options)
    items, tasks = asyncio.run(play(plan, batcher, task_factory))
    note(f"batches: {server.batches}")
    assert all(task.done() for task in tasks)
    flushed = [item.number for item in server.flushed]
    assert len(set(flushed)) == len(flushed)
    for item, task in zip(items, tasks, strict=True):
        if task.cancelled() or isinstance(task.exception(), NotStartedError | LostError):
            continue
        error = task.exception()
        number = error.args[0][0] if error else task.result()
        assert items[number].bad is bool(error)
        assert items[number].key == item.key
        assert number == item.number or (not error and options["choose"] and number > item.number)
        assert (number in flushed) is not bool(error)
    for key in "abc":
        numbers = [item.number for item in server.flushed if item.key == key]
        assert numbers == sorted(numbers), "the order of one key was not kept"
