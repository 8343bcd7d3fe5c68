from __future__ import annotations

import tracemalloc
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import orjson
import pytest

from taskiq_pg_json.errors import ResultDecodeError
from taskiq_pg_json.serializer import JsonSerializer
from taskiq_pg_json.serializer.protocol import EncodedRow

numpy = pytest.importorskip("numpy")
pandas = pytest.importorskip("pandas")

ARRAYS = [
    numpy.array([[1, 2], [3, 4]], dtype="int16"),
    numpy.zeros((0, 3)),
    numpy.array([numpy.nan, -0.0, 1e300, numpy.inf]),
    numpy.array([1.1], dtype="f4"),
    numpy.array([1], dtype=">i4"),
    numpy.array([True, False]),
    numpy.array(5.5),
    numpy.array([1 + 2j]),
    numpy.array(["a", "b\x00c"]),
    numpy.array([b"ab", b"c"]),
    numpy.array(["2024-01-01", "NaT"], dtype="M8[ns]"),
    numpy.array([5, 6], dtype="m8[s]"),
]
SCALARS = [
    numpy.float64(1.5),
    numpy.float32(0.1),
    numpy.int64(5),
    numpy.uint64(2**64 - 1),
    numpy.bool_(True),
    numpy.str_("x"),
    numpy.str_("x\0\0"),
    numpy.str_("\ud800\0"),
    numpy.str_(""),
    numpy.bytes_(b"a\0"),
    numpy.bytes_(b""),
    numpy.datetime64("2024-01-01T00:00:00.123", "ms"),
    numpy.timedelta64(5, "h"),
    pandas.Timestamp("2026-01-02 03:04:05.123456789", tz="UTC"),
    pandas.Timestamp("2026-01-02", tz=ZoneInfo("Europe/Berlin")),
    pandas.Timestamp("2026-01-02").as_unit("s"),
    pandas.Timedelta("1 days 00:00:00.000000001"),
    pandas.NaT,
]
THIRD = numpy.longdouble(1) / 3


def back(value, jsonb_roundtrip):
    serializer = JsonSerializer(fallback=None)
    row = jsonb_roundtrip(serializer.encode({"return_value": [value]}, task_id="t"))
    return serializer.decode(row, task_id="t")["return_value"][0]


@pytest.mark.parametrize("value", ARRAYS, ids=repr)
def test_an_array_comes_back_with_its_dtype_and_shape(value, jsonb_roundtrip):
    found = back(value, jsonb_roundtrip)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert found.tobytes() == value.tobytes()


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_a_scalar_comes_back_as_its_own_type(value, jsonb_roundtrip):
    found = back(value, jsonb_roundtrip)
    assert type(found) is type(value)
    assert repr(found) == repr(value)
    if isinstance(value, (str, bytes)):
        assert list(found) == list(value)


UNWRITABLE = [
    pandas.Timestamp("1890-06-01", tz=ZoneInfo("Europe/Berlin")),
    pandas.Timestamp("2024-01-01", tz=timezone(timedelta(hours=1, seconds=1))),
    pandas.Timestamp(numpy.datetime64(10**13, "s")),
    pandas.Timestamp(numpy.datetime64(-(10**13), "s")),
    pandas.Timestamp(numpy.datetime64(10**18, "ms")).tz_localize("UTC"),
    pandas.Timestamp(numpy.datetime64(7841303495414, "s")).tz_localize(
        timezone(timedelta(hours=3))
    ),
    pandas.Timedelta(numpy.timedelta64(200_000 * 86_400, "s")),
    pandas.Timedelta(numpy.timedelta64(-(2**62), "us")),
    pandas.Timedelta.min,
    numpy.datetime64(2**62 + 1, "W"),
    numpy.datetime64(2**60 + 3, "25s"),
    numpy.datetime64(2**62 + 1, "10ms"),
]


def shown(value):
    """All of a date or duration, for some have no repr."""
    if isinstance(value, numpy.generic):
        return value, value.dtype
    return value.asm8, value.unit, str(getattr(value, "tz", None))


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("number", range(len(UNWRITABLE)))
def test_a_date_or_duration_that_its_text_does_not_hold_is_pickled(number, jsonb_roundtrip):
    value = UNWRITABLE[number]
    row = jsonb_roundtrip(JsonSerializer().encode({"return_value": {"at": value}}, task_id="t"))
    assert row.pickled is not None
    found = JsonSerializer().decode(row, task_id="t")["return_value"]["at"]
    assert type(found) is type(value)
    assert shown(found) == shown(value)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("unit", ["W", "7D", "25s", "10ms", "3Y"])
def test_an_array_of_dates_far_away_comes_back(unit, jsonb_roundtrip):
    value = numpy.array([2**62 + 1, 5, -(2**60) + 3]).astype(f"M8[{unit}]")
    row = jsonb_roundtrip(JsonSerializer().encode({"return_value": value}, task_id="t"))
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert found.dtype == value.dtype
    assert found.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("plain", "dtype", "shape"),
    [
        ("a", "<U200000000", ""),
        (["a"], "<U200000000", "1"),
        ([["a"], [""]], "|S900000000", "2,1"),
        ([1, 2, 3], "<U20000000", "3"),
        ([None], "|S90000000", "1"),
        ([{}, 1.5], "<U20000000", "2"),
        (True, "|S90000000", ""),
    ],
)
def test_a_row_of_few_bytes_does_not_become_a_large_array(plain, dtype, shape):
    node = f"ndarray:{dtype}:{shape}"
    row = EncodedRow(
        {"return_value": orjson.dumps(plain)}, orjson.dumps({"v": 1, "return_value": node})
    )
    tracemalloc.start()
    with pytest.raises(ResultDecodeError):
        JsonSerializer().decode(row, task_id="t")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("value", [THIRD, numpy.array([THIRD])], ids=["scalar", "array"])
def test_a_number_that_no_python_number_holds_comes_back(value):
    row = JsonSerializer().encode({"return_value": value}, task_id="t")
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert found.dtype == value.dtype
    assert (found == value).all()


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("dtype", ["U100", "U1000000", "S9000000"])
def test_an_array_of_text_much_wider_than_its_items_comes_back(dtype):
    value = numpy.array(["a", "bc"], dtype=dtype)
    row = JsonSerializer().encode({"return_value": value}, task_id="t")
    assert (row.pickled is None) == (dtype == "U100")
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert found.dtype == value.dtype
    assert found.tolist() == value.tolist()
