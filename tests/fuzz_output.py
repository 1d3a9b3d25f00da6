"""A long fuzz of what reads an output folder: verify, inspect and report over damaged and hostile files.

    python tests/fuzz_output.py --count 1500 --seed 1        the run: 300 of each kind of file
    python tests/fuzz_output.py --seed 1 --start 123 --count 1   input 123 of that run again

Manifests, failures, parts, timings and journals are mutated in turn.  Every command must end with a verdict or with one
sentence.  Ends with one line; exit code 1 after a crash (a Python exception is one too) or a hang.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.check.shard import inspect
from mtembed.check.verify import sentence, verify
from mtembed.dataset.journal import Journal
from mtembed.errors import MtembedError
from mtembed.report.summary import report
from mtembed.types import CellRecord, CellTiming, Georeference
from tests.tools.datasets import make_dataset
from tests.tools.fuzzing import Target, main
from tests.tools.hostile import Mutation, binary_file, parquet_file, text_file, text_lines

DATA = "MTEMBED_FUZZ_DATA"  # where the parent made the dataset that its children damage
SPARE_BYTES = 2 << 30
DEADLINE_S = 60.0
KINDS: tuple[tuple[str, Mutation], ...] = (
    ("manifest.json", text_file),
    ("failures.jsonl", text_lines),
    ("embeddings/part_00001.parquet", parquet_file),
    ("timings/part_00001.parquet", parquet_file),
    (".mtembed/part_00004.journal", binary_file),
)


def prepare(folder: Path) -> Path:
    """A finished dataset with the journal of one more part."""
    root = make_dataset(folder).root
    work = root / ".mtembed"
    work.mkdir()
    journal = Journal(work / "part_00004.journal", {"shard": "part_00004.parquet", "rows": 4})
    place = Georeference(32633, 400_000.0, 5_000_000.0, 10.0, 10.0, 32, 32)
    for row in range(3):
        record = CellRecord(row, "product", "1U_1R", "20200101T000000", place, 32, np.zeros((1, 2), np.int32))
        timing = CellTiming("part_00004.parquet", row, worker="decode-0 device-0", started=1.0 + row)
        journal.append(timing, record, np.ones((1, 512), np.float32))
    journal.close()
    return root


@functools.cache
def scratch() -> Path:
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def make(seed: int, number: int) -> Path:
    """A copy of the dataset with one damaged file."""
    root = scratch() / "out"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(os.environ[DATA], root)
    name, mutation = KINDS[number % len(KINDS)]
    mutation(np.random.default_rng([seed, number]), root / name)
    return root


def attempt(root: Path) -> str:
    """``right`` where verify finds nothing but the journal of the unfinished part, else ``noticed``."""
    verdict = verify(root)
    "\n".join([*verdict.lines(), sentence(verdict)]).encode()
    kept: Callable[[Path], object]
    for kept in (inspect, report):
        try:
            kept(root)
        except MtembedError as error:
            str(error).encode()
    return "right" if verdict.counts.total() == 1 else "noticed"


def warm_up() -> None:
    root = scratch() / "out"
    shutil.copytree(os.environ[DATA], root)
    if attempt(root) != "right":
        raise SystemExit("the dataset is not right before it is damaged")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mtembed-fuzz-") as name:
        if DATA not in os.environ:
            os.environ[DATA] = str(prepare(Path(name)))
        raise SystemExit(main(Target(__file__, warm_up, make, attempt, SPARE_BYTES, DEADLINE_S), __doc__))
