"""Parquet files that may be anything: what pyarrow raises for them, and its first line."""

from __future__ import annotations

import pyarrow as pa

UNREADABLE = (OSError, pa.ArrowException, ValueError)
"""What pyarrow raises for files that are not what they should be (UnicodeDecodeError, a ValueError, for odd names)."""


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
