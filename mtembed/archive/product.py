"""What a product's name and time columns tell: processing baseline, radiometric offset, time of sensing."""

from __future__ import annotations

import re

import pyarrow as pa

TIME_COLUMNS = ("product_datetime", "timestamp")
OFFSET_SINCE = 400  # ESA processing baseline 04.00 introduced the radiometric offset (RADIO_ADD_OFFSET = -1000)
OFFSET_DN = 1000


def baseline(product_id: str) -> str:
    """Sentinel-2 processing baseline as written in product_id (``N0509``), or empty."""
    match = re.search(r"_(N\d{4})_", product_id)
    return match.group(1) if match else ""


def has_offset(baseline: str) -> bool:
    """Baselines from 04.00 on carry +1000; N9999 says nothing and is left alone."""
    return bool(baseline) and baseline != "N9999" and int(baseline[1:]) >= OFFSET_SINCE


def sensing_start(product_id: str) -> str:
    """``YYYYMMDDTHHMMSS`` as written in product_id, or empty."""
    match = re.search(r"(?<!\d)\d{8}T\d{6}(?!\d)", product_id)
    return match.group() if match else ""


def row_time(table: pa.Table) -> str:
    """The row's own time column as YYYYMMDDTHHMMSS, or empty."""
    for name in TIME_COLUMNS:
        if name in table.column_names and (value := table.column(name)[0].as_py()) is not None:
            digits = re.sub(r"\D", "", value.isoformat() if hasattr(value, "isoformat") else str(value))
            if len(digits) >= 14:
                return f"{digits[:8]}T{digits[8:14]}"
    return ""
