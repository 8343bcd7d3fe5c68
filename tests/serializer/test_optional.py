from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from taskiq_pg_json.serializer import JsonSerializer

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
