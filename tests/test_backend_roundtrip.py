from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from road import finished
from strategies import same, text, values, values_and_exceptions
from taskiq.depends.progress_tracker import TaskProgress

from taskiq_pg_json.records import Outcome, TaskInfo

pytestmark = [
    pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

# One statement stores and one reads a whole list: they come back from the middle of a batch.
several = st.lists(values_and_exceptions, min_size=1, max_size=25)


@given(several)
async def test_what_a_task_returns_comes_back_the_same(backend, returned):
    given_ids = {str(number): value for number, value in enumerate(returned)}
    await asyncio.gather(*(backend.set_result(id_, finished(v)) for id_, v in given_ids.items()))
    results = await asyncio.gather(*map(backend.get_result, given_ids))
    for value, result in zip(returned, results, strict=True):
        assert result.error is None
        assert same(result.return_value, value)


@given(several)
async def test_what_a_task_says_of_its_progress_comes_back_the_same(backend, metas):
    reports = {str(number): meta for number, meta in enumerate(metas)}
    await asyncio.gather(
        *(
            backend.set_progress(id_, TaskProgress.model_construct(state="s", meta=meta))
            for id_, meta in reports.items()
        )
    )
    for meta, progress in zip(
        metas, await asyncio.gather(*map(backend.get_progress, reports)), strict=True
    ):
        assert same(progress.meta, meta)


@given(
    returned=values,
    args=st.lists(values, max_size=4),
    kwargs=st.dictionaries(text, values, max_size=4),
    labels=st.dictionaries(text, values, max_size=4),
)
async def test_the_columns_of_one_row_come_back_the_same_each_by_itself(
    backend, returned, args, kwargs, labels
):
    info = TaskInfo("task", args, kwargs, labels)
    outcome = Outcome(return_value=returned, labels=labels, info=info)
    await backend.store.set_result("id", outcome)
    record = await backend.store.get("id")
    assert same(record.kwargs, kwargs)
    assert same(record.return_value, returned)
    assert same(record.args, args)
    assert same(record.labels, labels)
    result = await backend.get_result("id")
    assert same(result.return_value, returned)
    assert same(result.labels, labels)
