"""The shards of the archive: find them, open them, tell them apart."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from mtembed.errors import ShardError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Fingerprint


def find_shards(names: Iterable[str]) -> list[Path]:
    """Files, folders (their ``*.parquet``, or ``images/*.parquet``) and globs -> sorted paths.

    Raises UsageError when a name matches nothing, or when two files share one stem.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _matches(name):
            other = found.setdefault(path.stem, path)
            if other.absolute() != path.absolute():
                raise UsageError(f"{other} and {path} would both become {path.stem}.parquet: run them into two folders")
    return sorted(found.values(), key=lambda p: (p.stem, str(p)))


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        files = sorted(p for p in folder.glob("*.parquet") if p.name != "metadata.parquet")
    elif path.exists() or path.is_symlink():
        files = [path]
    else:
        files = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not files:
        raise UsageError(f"no shard matches {name}: give Parquet files, a folder of them, or a glob")
    return files


def open_shard(path: Path) -> pq.ParquetFile:
    """The shard, footer parsed.  Raises ShardError with the file and the cause in one sentence."""
    try:
        file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
    except FileNotFoundError as error:
        raise ShardError(f"{path.name} does not exist (any more)") from error
    except UNREADABLE as error:
        raise ShardError(f"{path.name} is not a readable Parquet file: {first_line(error)}") from error
    if file.metadata.num_rows and file.metadata.num_row_groups != file.metadata.num_rows:
        rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
        file.close()
        raise ShardError(
            f"{path.name} has {rows} rows in {groups} row groups; a Core shard holds one row per row group"
        )
    return file


def fingerprint(path: Path, rows: int) -> Fingerprint:
    """Size, time stamp and footer hash of a Parquet file; the footer is read once, as bytes."""
    stat = path.stat()
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        digest = hashlib.sha256(file.read(length)).hexdigest()
    return Fingerprint(stat.st_size, stat.st_mtime_ns, rows, digest)


def missing_columns(columns: Sequence[str], bands: Sequence[str]) -> list[str]:
    """Band columns the model needs and the shard lacks (pyarrow itself drops unknown names silently)."""
    return [name for name in bands if name not in columns]
