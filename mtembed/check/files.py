"""The files of a part before they are read: there, whole, and to the bit what was written."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from mtembed.check.findings import FileFindings
from mtembed.dataset.atomic import sha256_of
from mtembed.parquet import UNREADABLE, first_line


def check_digest(path: Path, wanted: str, found: FileFindings) -> None:
    """The file is, to the last bit, the one that was written; asked only where nothing else is wrong with it."""
    if wanted and sha256_of(path) != wanted:
        found.add("digest", "its sha256 is not the one in the manifest: a byte was changed after it was written")


def open_parquet(path: Path, found: FileFindings) -> pq.ParquetFile | None:
    """The file, which compares the checksums of its pages; None where it cannot be opened, which is noted."""
    try:
        if not path.exists():
            found.add("missing", "the file is missing: run the same command again, it makes what is missing")
            return None
        if not path.is_file():
            raise ValueError("it is no file")
        return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except UNREADABLE as error:
        found.add("unreadable", f"not a readable Parquet file: {first_line(error)}")
        return None
