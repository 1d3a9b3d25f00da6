"""What a product's name and times tell: processing baseline, radiometric offset, time of sensing."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pyarrow as pa

from mtembed.parquet import as_text, plain_type

TIME_COLUMNS = ("product_datetime", "timestamp")
OFFSET_SINCE = 400  # ESA processing baseline 04.00 introduced the radiometric offset (RADIO_ADD_OFFSET = -1000)
OFFSET_DN = 1000
YEARS = range(2014, 2101)  # of Sentinel-1 and -2; other years are no times of theirs

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UTC = datetime.UTC
_EPOCHS = tuple(int(datetime.datetime(year, 1, 1, tzinfo=_UTC).timestamp()) for year in (YEARS[0], YEARS[-1] + 1))


def baseline(product_id: str) -> str:
    """Sentinel-2 processing baseline as written in product_id (``N0509``), or empty."""
    match = re.search(r"_(N\d{4})_", product_id)
    return match.group(1) if match else ""


def has_offset(baseline: str) -> bool:
    """Baselines from 04.00 on carry +1000; N9999 says nothing and is left alone."""
    return bool(baseline) and baseline != "N9999" and int(baseline[1:]) >= OFFSET_SINCE


def sensing_start(product_id: str) -> str:
    """``YYYYMMDDTHHMMSS`` as written in product_id, or empty."""
    match = re.search(r"(?<!\d)\d{8}T\d{6}(?!\d)", product_id, re.ASCII)
    return utc_time(match.group()) if match else ""


def column_times(values: pa.Array | pa.ChunkedArray) -> list[tuple[str, str]]:
    """For each value of a time column its time as ``YYYYMMDDTHHMMSS`` in UTC, or empty, and the value as text.

    Arrow's timestamps of any unit and zone, dates, whole numbers of s, ms, us or ns since 1970, and texts (ISO 8601
    with or without an offset, the compact form) are times, in the years 2014 to 2100.  What has no zone is in UTC.
    """
    kind = plain_type(values.type)
    if values.type != kind:
        values = values.cast(kind)
    if pa.types.is_timestamp(kind):
        numbers = values.cast(pa.int64()).to_pylist()  # instants are kept in UTC
        per_second = _UNITS[kind.unit]
        return [("", "") if n is None else (_of_epoch(n // per_second), f"{n} {kind.unit}") for n in numbers]
    if pa.types.is_date(kind):
        days = values.cast(pa.date32()).cast(pa.int32()).to_pylist()
        return [("", "") if n is None else (_of_epoch(n * 86_400), f"day {n}") for n in days]
    return [(utc_time(value), as_text(value)[:40]) for value in values.to_pylist()]


def utc_time(value: Any) -> str:
    """One time as text, bytes or number of seconds or less since 1970, as ``YYYYMMDDTHHMMSS`` in UTC; empty if none."""
    if isinstance(value, int | float):
        return _of_number(value)
    text = as_text(value).strip().removesuffix(" UTC")
    if re.fullmatch(r"[0-9]{14}", text):
        text = f"{text[:8]}T{text[8:]}"
    if re.fullmatch(r"[0-9]{9,19}", text):
        return _of_number(int(text))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return ""
    return _compact(moment if moment.tzinfo is None else moment.astimezone(_UTC)) if len(text) >= 8 else ""


def _of_number(value: float) -> str:
    """A number of seconds, milli-, micro- or nanoseconds since 1970: the unit in which it lies in the years above."""
    if value == value and abs(value) < 2**63:
        for per_second in _UNITS.values():
            if _EPOCHS[0] <= value / per_second < _EPOCHS[1]:
                return _of_epoch(int(value) // per_second)
        if re.fullmatch(r"20[0-9]{12}", text := str(int(value))):
            return utc_time(text)
    return ""


def _of_epoch(seconds: int) -> str:
    if not _EPOCHS[0] <= seconds < _EPOCHS[1]:
        return ""
    return _compact(datetime.datetime.fromtimestamp(seconds, _UTC))


def _compact(moment: datetime.datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%S") if moment.year in YEARS else ""
