"""Numbers of what ran: by task, by status, over time; and the failures by their cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import reduce
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from taskiq_pg_json.errors import FilterError
from taskiq_pg_json.records import FailureGroup, Rows, StatsRow
from taskiq_pg_json.store.filters import moment
from taskiq_pg_json.store.fragments import Fragments, compose
from taskiq_pg_json.store.queries import check_timeout
from taskiq_pg_json.store.rollup import answers, days_will_do

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskiq_pg_json.serializer.protocol import ResultSerializer
    from taskiq_pg_json.store.filters import FilterArguments
    from taskiq_pg_json.store.queries import QueryRunner
    from taskiq_pg_json.store.rollup import Rollup
    from taskiq_pg_json.store.search import Searcher
    from taskiq_pg_json.store.tasks import Task

GroupKey = Literal["task_name", "status", "worker", "error_type"]
Bucket = Literal["minute", "hour", "day", "week"]

_KEYS = get_args(GroupKey)
_WIDTHS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_WIDEST = timedelta(days=365_000)  # beyond, a bucket may begin before the calendar
_ORIGIN = datetime(2000, 1, 3, tzinfo=timezone.utc)  # a Monday, as in bucket_key
_BOUNDS: tuple[Literal["since", "until"], ...] = ("since", "until")
_QUERIES = {  # by whether the rollup is of use, and whether there are buckets
    (False, False): "stats",
    (False, True): "stats_by_bucket",
    (True, False): "stats_from_rollup",
    (True, True): "stats_from_rollup",
}
_MAX_BUCKETS = 10_000
_MAX_ROWS = 500_000
_MAX_GROUPS = 10_000


class Statistician:
    """Counts, rates and durations."""

    def __init__(
        self,
        runner: QueryRunner,
        searcher: Searcher,
        serializer: ResultSerializer,
        rollup: Rollup,
    ) -> None:
        self._runner = runner
        self._searcher = searcher
        self._serializer = serializer
        self._rollup = rollup

    async def stats(
        self,
        given: FilterArguments,
        *,
        task: Task[Any] | None,
        by: GroupKey | Sequence[GroupKey],
        bucket: Bucket | timedelta | None,
        percentiles: Sequence[float],
        timeout: float | None,
    ) -> Rows[StatsRow]:
        """Return the numbers of each group, in the order of its keys and of time."""
        check_timeout(timeout)
        keys = _checked_keys(by)
        shares = _shares(percentiles)
        width = _width(bucket)
        # Bounds that count back from now are of one moment in all that follows.
        bounds = {name: moment(name, given[name]) for name in _BOUNDS if name in given}
        since, until = bounds.get("since"), bounds.get("until")
        given = cast("FilterArguments", {**given, **bounds})
        filters = await self._searcher.filters(given, task)
        fragments = Fragments(self._serializer)
        key_names = _listed([compose("key_name", column=key) for key in (*keys, "bucket")])
        from_rollup = answers(given, keys, width) and await self._rollup.is_of_use(
            since, until, timeout
        )
        query = compose(
            _QUERIES[from_rollup, width is not None],
            keys=_keys(keys, bucketed=width is not None),
            key_names=key_names,
            conditions=filters.visible(fragments),
            from_histogram=compose("from_histogram", key_names=key_names),
        )
        values = {
            "shares": shares,
            "width": width,
            "since": since,
            "until": until,
            "days": days_will_do(width),
        }
        found = await self._runner.fetch(query, fragments.values | values, timeout)
        rows = [_stats_row(row, keys, percentiles) for row in found]
        if width is None:
            return Rows(rows)
        return Rows(_without_gaps(rows, _span(rows, width, since, until), percentiles))

    async def failures(
        self,
        given: FilterArguments,
        *,
        task: Task[Any] | None,
        samples: int,
        limit: int,
        timeout: float | None,
    ) -> Rows[FailureGroup]:
        """Return the failures of one cause each, the most frequent cause first."""
        for name, value in (("samples", samples), ("limit", limit)):
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or not 0 < value <= _MAX_GROUPS
            ):
                raise FilterError(f"{name}={value!r}: give 1 to {_MAX_GROUPS}.")
        filters = await self._searcher.filters({"status": "FAILURE", **given}, task)
        fragments = Fragments(self._serializer)
        query = compose("failure_groups_found", conditions=filters.visible(fragments))
        values = {**fragments.values, "samples": samples, "limit": limit}
        found = await self._runner.fetch(query, values, timeout)
        return Rows(_failure_group(row) for row in found)


def _checked_keys(by: GroupKey | Sequence[GroupKey]) -> tuple[GroupKey, ...]:
    keys = (by,) if isinstance(by, str) or not isinstance(by, Iterable) else tuple(by)
    if any(key not in _KEYS for key in keys) or len(set(keys)) < len(keys):
        raise FilterError(f"by={by!r}: group by some of {', '.join(_KEYS)}, each once.")
    return keys


def _keys(keys: Sequence[GroupKey], *, bucketed: bool) -> str:
    """Return the SQL of what to group by, the bucket last."""
    columns = [
        compose("error_type_key") if key == "error_type" else compose("column_key", column=key)
        for key in keys
    ]
    return _listed([*columns, compose("bucket_key" if bucketed else "no_bucket_key")])


def _listed(parts: Sequence[str]) -> str:
    return reduce(lambda left, right: compose("list", left=left, right=right), parts)


def _stats_row(
    columns: Sequence[Any], keys: Sequence[GroupKey], percentiles: Sequence[float]
) -> StatsRow:
    group = dict(zip(keys, columns, strict=False))
    bucket, total, failed, average, maximum, shares, average_wait, max_wait = columns[len(keys) :]
    return StatsRow(
        group=group,
        bucket=bucket and bucket.astimezone(timezone.utc),
        total=total,
        failed=failed,
        average_duration=average,
        max_duration=maximum,
        percentiles=dict(zip(percentiles, shares or repeat(None), strict=False)),
        average_wait=average_wait,
        max_wait=max_wait,
    )


def _failure_group(columns: Sequence[Any]) -> FailureGroup:
    *values, first_seen, last_seen, samples = columns
    moments = (first_seen.astimezone(timezone.utc), last_seen.astimezone(timezone.utc))
    return FailureGroup(*[*values, *moments, tuple(samples)])


def _without_gaps(
    rows: Sequence[StatsRow],
    buckets: Sequence[datetime],
    percentiles: Sequence[float],
) -> Iterator[StatsRow]:
    """Give a row of each group for each bucket, empty where nothing ended in it.

    Raises:
        FilterError: these are too many rows.
    """
    groups = [
        {row.bucket: row for row in members}
        for _, members in groupby(rows, key=lambda row: tuple(row.group.values()))
    ]
    if len(groups) * len(buckets) > _MAX_ROWS:
        raise FilterError(
            f"{len(groups)} groups in {len(buckets)} buckets make more than {_MAX_ROWS} rows: give "
            "wider buckets, a shorter span of time or fewer by=."
        )
    for found in groups:
        group = next(iter(found.values())).group
        for bucket in buckets:
            yield found.get(bucket) or StatsRow(
                group=group, bucket=bucket, percentiles=dict.fromkeys(percentiles)
            )


def _span(
    rows: Sequence[StatsRow], width: timedelta, since: datetime | None, until: datetime | None
) -> Sequence[datetime]:
    """Return the buckets from ``since`` to ``until`` or now, or from first to last found."""
    found = [row.bucket for row in rows if row.bucket is not None]
    if not found:
        return ()
    first = min(found) if since is None else _start(since, width)
    last = max(found)
    if until is not None:
        last = _start(until - timedelta(microseconds=1), width)
    elif since is not None:
        last = max(last, _start(datetime.now(timezone.utc), width))
    count = (last - first) // width + 1
    if count > _MAX_BUCKETS:
        raise FilterError(
            f"bucket={width} makes {count} buckets, more than {_MAX_BUCKETS}: give a wider one, a "
            "later since= or an earlier until=."
        )
    return [first + number * width for number in range(count)]


def _start(at: datetime, width: timedelta) -> datetime:
    try:
        return at - (at - _ORIGIN) % width
    except OverflowError as error:
        raise FilterError(f"{at} has no bucket of {width}: give a later since=.") from error


def _width(bucket: Bucket | timedelta | None) -> timedelta | None:
    if bucket is None or isinstance(bucket, timedelta):
        if bucket is not None and bucket < timedelta(seconds=1):
            raise FilterError(f"bucket={bucket!r}: give a second or more.")
        if bucket is not None and bucket > _WIDEST:
            raise FilterError(f"bucket={bucket!r} is too wide: give None for all times together.")
        return bucket
    if not isinstance(bucket, str) or bucket not in _WIDTHS:
        raise FilterError(f"bucket={bucket!r}: give {', '.join(_WIDTHS)}, or a timedelta.")
    return _WIDTHS[bucket]


def _shares(percentiles: Sequence[float]) -> list[float]:
    if not isinstance(percentiles, Sequence) or isinstance(percentiles, str):
        raise FilterError(f"percentiles={percentiles!r}: give numbers from 0 to 100, as a list.")
    for percentile in percentiles:
        if not isinstance(percentile, int | float) or not 0 <= percentile <= 100:  # noqa: PLR2004 - per cent
            raise FilterError(f"percentiles: {percentile!r} is not between 0 and 100.")
    # 99.9 / 100 is a little more than 0.999, and of 1,000 durations one more.
    return [float(Decimal(str(float(percentile))) / 100) for percentile in percentiles]
