"""Times of all kinds become one form, in UTC; names of products tell baseline and sensing time."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.archive.product import baseline, column_times, has_offset, sensing_start, utc_time

NOON = datetime.datetime(2020, 1, 1, 12)
SECONDS = 1_577_880_000  # the same
PLUS_TWO = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([NOON], pa.timestamp("us")),
        pa.array([NOON], pa.timestamp("s")),
        pa.array([NOON], pa.timestamp("ns")),
        pa.array([SECONDS * 10**9 + 123_456_789], pa.timestamp("ns")),
        pa.array([SECONDS * 1000], pa.timestamp("ms", "Europe/Paris")),
        pa.array([SECONDS], pa.timestamp("s", "+05:30")),
        pa.array([SECONDS], pa.timestamp("s", "No/Such_Zone")),
        pa.array([SECONDS], pa.timestamp("s")).dictionary_encode(),
        pa.array([SECONDS]),
        pa.array([SECONDS], pa.int32()),
        pa.array([SECONDS * 10**3]),
        pa.array([SECONDS * 10**6]),
        pa.array([SECONDS * 10**9]),
        pa.array([SECONDS * 10**9], pa.uint64()),
        pa.array([float(SECONDS)]),
        pa.array(["20200101T120000"]),
        pa.array(["20200101T120000"], pa.large_string()),
        pa.array(["20200101T120000"], pa.string_view()),
        pa.array(["20200101T120000"]).dictionary_encode(),
        pa.array([b"20200101T120000"]),
        pa.array(["20200101120000"]),
        pa.array([20200101120000]),
        pa.array(["2020-01-01T12:00:00Z"]),
        pa.array(["2020-01-01 12:00:00"]),
        pa.array(["2020-01-01 12:00:00+00:00"]),
        pa.array(["2020-01-01T14:00:00.123+02:00"]),
        pa.array(["2019-12-31T23:30:00-12:30"]),
        pa.array([str(SECONDS)]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_time_of_any_type_is_one_text_in_utc(values: pa.Array) -> None:
    assert column_times(values)[0][0] == "20200101T120000"
    assert column_times(pa.chunked_array([values]))[0][0] == "20200101T120000"


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_its_midnight(kind: pa.DataType) -> None:
    assert column_times(pa.array([datetime.date(2020, 1, 1)], kind))[0][0] == "20200101T000000"


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**62], pa.timestamp("s")),
        pa.array([-(2**31)], pa.date32()),
        pa.array([datetime.datetime(1999, 1, 1)], pa.timestamp("us")),
        pa.array([float("nan")]),
        pa.array([float("inf")]),
        pa.array([2**63], pa.uint64()),
        pa.array([0]),
        pa.array([True]),
        pa.array(["01/02/2020 12:00:00"]),
        pa.array(["20201301T120000"]),
        pa.array(["21010101T000000"]),
        pa.array(["no time"]),
        pa.array([b"\xff\xfe"]),
        pa.array([[1, 2]]),
        pa.array([{"a": 1}]),
        pa.array([SECONDS], pa.duration("s")),
    ],
    ids=lambda values: str(values.type),
)
def test_what_is_no_time_is_none(values: pa.Array) -> None:
    assert column_times(values)[0][0] == ""


def test_nulls_say_nothing() -> None:
    for kind in (pa.string(), pa.timestamp("us"), pa.date32(), pa.int64()):
        assert column_times(pa.array([None], kind)) == [("", "")]


@given(st.datetimes(datetime.datetime(2014, 1, 1), datetime.datetime(2100, 12, 31, 23, 59, 59)), st.integers(-840, 840))
def test_every_second_of_the_missions_survives_every_way(moment: datetime.datetime, offset: int) -> None:
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    wanted = moment.strftime("%Y%m%dT%H%M%S")
    epoch = int(moment.timestamp())
    local = moment.astimezone(datetime.timezone(datetime.timedelta(minutes=offset))).isoformat()
    ways: list[Any] = [wanted, local, epoch, epoch * 10**3, epoch * 10**6, epoch * 10**9, str(epoch), wanted.encode()]
    assert [utc_time(way) for way in ways] == [wanted] * len(ways)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_anything_is_a_time_or_none(value: Any) -> None:
    time = utc_time(value)
    assert time == "" or utc_time(time) == time


def test_what_a_product_is_called() -> None:
    name = "S2B_MSIL2A_20230824T131249_N0509_R138_T24LTQ_20230824T200728"
    assert (baseline(name), sensing_start(name)) == ("N0509", "20230824T131249")
    assert sensing_start("S1A_IW_GRDH_1SDV_99999999T999999") == "" == sensing_start("") == baseline("S1A")
    assert [has_offset(text) for text in ("N0400", "N0509", "N0300", "N9999", "")] == [True, True, False, False, False]
