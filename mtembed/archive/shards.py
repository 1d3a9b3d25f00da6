"""The shards of the archive: find them, open them, tell them apart."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from mtembed.errors import ShardError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Fingerprint

LONGEST_STEM = 200  # bytes: files of a dataset add to it, and file systems end at 255


def find_shards(names: Iterable[str]) -> list[Path]:
    """Files, folders (their ``*.parquet``, or ``images/*.parquet``) and globs -> sorted paths.

    In folders and globs hidden files, folders, pipes and devices are no shards.  Raises UsageError when a name matches
    nothing, when two files share one stem, and for a stem that is too long for the files made from it.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _matches(name):
            other = found.setdefault(path.stem, path)
            if other.absolute() != path.absolute():
                raise UsageError(f"{other} and {path} would both become {path.stem}.parquet: run them into two folders")
            if len(os.fsencode(path.stem)) > LONGEST_STEM:
                raise UsageError(
                    f"the name {path.name[:40]}... has over {LONGEST_STEM} bytes: give the shard a shorter one"
                )
    return sorted(found.values(), key=lambda p: (p.stem, str(p)))


def _matches(name: str) -> list[Path]:
    path = Path(name)
    try:
        if path.is_dir():
            folder = path / "images" if (path / "images").is_dir() else path
            files = sorted(p for p in folder.glob("*.parquet") if p.name != "metadata.parquet" and _may_be_shard(p))
        elif path.is_symlink() or path.exists():
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if _may_be_shard(p))  # noqa: PTH207
    except OSError as error:
        raise UsageError(f"{name} cannot be looked at ({error.strerror}): give shards that can be read") from error
    if not files:
        raise UsageError(f"no shard matches {name}: give Parquet files, a folder of them, or a glob")
    return files


def _may_be_shard(path: Path) -> bool:
    """A visible file; also a link to nothing, which is told as a shard that cannot be opened."""
    return not path.name.startswith(".") and (path.is_file() or (path.is_symlink() and not path.exists()))


def open_shard(path: Path) -> pq.ParquetFile:
    """The shard, footer parsed.  Raises ShardError with the file and the cause in one sentence.

    Only files are opened: a pipe would keep its reader waiting for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ShardError(f"{path.name} is not a file")
        file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
    except FileNotFoundError as error:
        raise ShardError(f"{path.name} does not exist (any more)") from error
    except UnicodeEncodeError as error:
        shown = os.fsencode(path.name).decode(errors="backslashreplace")
        raise ShardError(f"{shown} has a name that is not UTF-8: rename it") from error
    except UNREADABLE as error:
        raise ShardError(f"{path.name} is not a readable Parquet file: {first_line(error)}") from error
    rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
    if rows > groups:
        file.close()
        raise ShardError(
            f"{path.name} has {rows} rows in {groups} row groups; a Core shard holds one row per row group"
        )
    return file


def filled_row_groups(file: pq.ParquetFile, name: str) -> list[int]:
    """The row groups that hold a row.  Raises ShardError where one holds several, or not all of the columns."""
    columns = len(file.schema)
    filled = []
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows > 1:
            raise ShardError(
                f"row group {number} of {name} has {group.num_rows} rows; a Core shard holds one row per row group"
            )
        if group.num_columns != columns:
            raise ShardError(f"row group {number} of {name} has {group.num_columns} of its {columns} columns")
        if group.num_rows == 1:
            filled.append(number)
    return filled


def fingerprint(path: Path, rows: int) -> Fingerprint:
    """Size, time stamp and footer hash of a Parquet file; the footer is read once, as bytes."""
    state = path.stat()
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        digest = hashlib.sha256(file.read(length)).hexdigest()
    return Fingerprint(state.st_size, state.st_mtime_ns, rows, digest)


def missing_columns(columns: Sequence[str], bands: Sequence[str]) -> list[str]:
    """Band columns the model needs and the shard lacks (pyarrow itself drops unknown names silently)."""
    return [name for name in bands if name not in columns]
