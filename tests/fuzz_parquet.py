"""A long fuzz of the shard reader with mutated Parquet files; the way of a decode worker from a path to a filled slot.

    python tests/fuzz_parquet.py --count 10000 --seed 1        the run
    python tests/fuzz_parquet.py --seed 1 --start 123 --count 1   input 123 of that run again

Ends with one line; exit code 1 after a crash or a hang (see ``fuzzing.py``).
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.archive.cell import DecodeJob, decode_cell
from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex
from mtembed.archive.reader import ShardReader
from mtembed.archive.selection import Selection
from mtembed.errors import MtembedError
from mtembed.ring import Ring, RingShape
from mtembed.types import CellTiming
from tests.tools.fuzzing import Target, main
from tests.tools.shards import make_shard

BANDS = ("vv", "vh")
JOB = DecodeJob("S1RTC", BANDS, 32, 0.1, True, False, 1.0, False)
SLOT = RingShape(1, 1 << 20, 4 << 20)
SPARE_BYTES = 1 << 30  # a page's claimed size is allocated before it is read: Arrow's reader trusts up to 2 GiB


@functools.cache
def folder() -> Path:
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Small valid shards: codecs of pages and images, one and several cells."""
    blobs = []
    for i, (codec, image) in enumerate(
        [("snappy", {}), ("zstd", {"compress": "lzw"}), ("none", {"compress": "deflate", "predictor": 3})]
    ):
        path = folder() / f"seed_{i}.parquet"
        blobs.append(make_shard(path, 1 + i, "S1RTC", 48, tiff=image, parquet_compression=codec).path.read_bytes())
    return tuple(blobs)


@functools.cache
def ring() -> Ring:
    return Ring.create(SLOT)


def one_input(seed: int, number: int) -> bytes:
    """One to four changes, most of them in the footer, where a byte decides what is read and how much of it."""
    rng = np.random.default_rng([seed, number])
    data = np.frombuffer(seeds()[rng.integers(0, len(seeds()))], np.uint8).copy()
    footer = int.from_bytes(data[-8:-4].tobytes(), "little") + 8
    for _ in range(rng.integers(1, 5)):
        match rng.integers(0, 8):
            case 0:
                data = data[: rng.integers(0, data.size + 1)].copy()
            case 1:
                at = int(rng.integers(0, data.size + 1))
                data = np.delete(data, slice(at, at + int(rng.integers(1, 64))))
            case 2 | 3:
                data[rng.integers(0, data.size, 4)] = rng.integers(0, 256, 4)
            case _:
                data[data.size - 1 - rng.integers(0, min(footer, data.size))] = rng.integers(0, 256)
        if data.size < 16:
            break
    return data.tobytes()


def attempt(data: bytes) -> str:
    """Plan the shard and decode what the plan wants: ``decoded`` when a cell was, ``refused`` by an MtembedError."""
    path = folder() / "input.parquet"
    path.write_bytes(data)
    plan = list_shard(0, path, BANDS, MetadataIndex(None), Selection())
    reader, outcome = ShardReader(), "refused"
    for cell in plan.cells[:8]:
        try:
            decode_cell(reader, JOB, path, cell, ring().slot(0), CellTiming(path.name, cell.row_group))
            outcome = "decoded"
        except (MtembedError, MemoryError, ValueError):  # what a decode worker turns into a failed cell
            continue
    return outcome


def warm_up() -> None:
    for data in seeds():
        if attempt(data) != "decoded":
            raise SystemExit("a seed does not decode")


if __name__ == "__main__":
    raise SystemExit(main(Target(__file__, warm_up, one_input, attempt, SPARE_BYTES), __doc__))
