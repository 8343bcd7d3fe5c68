from __future__ import annotations

import tracemalloc
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


@pytest.mark.parametrize(
    ("plain", "dtype", "shape"),
    [("a", "<U200000000", ""), (["a"], "<U200000000", "1"), ([["a"], [""]], "|S900000000", "2,1")],
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
@pytest.mark.parametrize("dtype", ["U100", "U1000000", "S9000000"])
def test_an_array_of_text_much_wider_than_its_items_comes_back(dtype):
    value = numpy.array(["a", "bc"], dtype=dtype)
    row = JsonSerializer().encode({"return_value": value}, task_id="t")
    assert (row.pickled is None) == (dtype == "U100")
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert found.dtype == value.dtype
    assert found.tolist() == value.tolist()
