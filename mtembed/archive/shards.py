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
from mtembed.storage.address import Address, Place, is_address
from mtembed.storage.finding import files_of
from mtembed.storage.remote import RemoteParquet, footer_of, tail
from mtembed.types import Fingerprint

LONGEST_STEM = 200  # bytes: files of a dataset add to it, and file systems end at 255


def find_shards(names: Iterable[str]) -> list[Place]:
    """Files, folders (their ``*.parquet``, or ``images/*.parquet``), globs, and addresses of these -> sorted places.

    In folders and globs hidden files, folders, pipes and devices are no shards.  Raises UsageError when a name matches
    nothing, when two files share one stem, and for a stem that is too long for the files made from it.
    """
    found: dict[str, Place] = {}
    for name in names:
        for path in _behind(Address.of(name)) if is_address(name) else _matches(name):
            other = found.setdefault(path.stem, path)
            if not _same(other, path):
                raise UsageError(f"{other} and {path} would both become {path.stem}.parquet: run them into two folders")
            if len(os.fsencode(path.stem)) > LONGEST_STEM:
                raise UsageError(
                    f"the name {path.name[:40]}... has over {LONGEST_STEM} bytes: give the shard a shorter one"
                )
    return sorted(found.values(), key=lambda p: (p.stem, str(p)))


def _same(one: Place, other: Place) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.absolute() == other.absolute()
    return one == other


def _behind(address: Address) -> list[Place]:
    """The shards that an address stands for: those in ``images/`` where a folder has one."""
    try:
        files = [file for file in files_of(address, ".parquet") if not file.name.startswith(".")]
    except ShardError as error:
        raise UsageError(str(error)) from None
    if len(files) > 1 or files[:1] != [address]:
        images = [file for file in files if file.above(1).name == "images"]
        files = images or [file for file in files if file.name != "metadata.parquet"]
    if not files:
        raise UsageError(f"no shard matches {address}: give Parquet files, a folder of them, or a glob")
    return [*files]


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


def open_shard(path: Place) -> pq.ParquetFile:
    """The shard, footer parsed.  Raises ShardError with the file and the cause in one sentence.

    Only files are opened: a pipe would keep its reader waiting for ever.
    """
    try:
        file = RemoteParquet(path) if isinstance(path, Address) else _open(path)
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


def _open(path: Path) -> pq.ParquetFile:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ShardError(f"{path.name} is not a file")
    return pq.ParquetFile(path, memory_map=False, pre_buffer=False)


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


def state_of(path: Place) -> tuple[int, int]:
    """Size and time stamp of a file; behind an address a number in the place of its version.  Raises OSError,
    StorageError."""
    if isinstance(path, Address):
        head = tail(path, 8)[1]
        return head.size, head.stamp
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def fingerprint(path: Place, rows: int, file: pq.ParquetFile | None = None) -> Fingerprint:
    """Size, time stamp and footer hash of a Parquet file (``file``, if it is open); see ``state_of``."""
    if isinstance(path, Address):
        footer = file.footer if isinstance(file, RemoteParquet) else footer_of(path)
        return Fingerprint(footer.head.size, footer.head.stamp, rows, footer.sha256)
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
