"""The journal gives back every whole frame and nothing else, whatever happened to the end of the file."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtembed.dataset.folder import Dataset
from mtembed.dataset.journal import Journal
from mtembed.dataset.part import UnfinishedPart, WriteJob
from mtembed.types import CellRecord, CellTiming, Fingerprint, Georeference, PartInfo

IDENTITY = {"shard": "part_00001.parquet", "rows": 7}


def record(row: int, fragments: int = 3) -> CellRecord:
    offsets = np.arange(2 * fragments, dtype=np.int32).reshape(-1, 2)
    share = np.linspace(0, 1, fragments, dtype=np.float32)
    reference = Georeference(32633, 480037.35680356843, 5212196.71, 10.0, 10.0, 1068, 1068)
    return CellRecord(row, f"S2_{row}", "1U_2R", "20200101T000000", reference, 224, offsets, nodata=share)


def fill(path: Path, rows: int) -> list[np.ndarray]:
    journal = Journal(path, IDENTITY)
    vectors = [np.random.default_rng(row).standard_normal((3, 5)).astype(np.float32) for row in range(rows)]
    for row, matrix in enumerate(vectors):
        journal.append(CellTiming("part_00001.parquet", row, warnings=("odd",)), record(row), matrix)
    journal.close()
    return vectors


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    vectors = fill(tmp_path / "j", 4)
    journal = Journal(tmp_path / "j", IDENTITY)
    assert list(journal.entries) == [0, 1, 2, 3]
    for row, matrix in enumerate(vectors):
        entry = journal.entries[row]
        assert entry.record is not None and entry.record.nodata is not None
        assert entry.record.georeference == record(row).georeference
        assert entry.record.nodata.tobytes() == record(row).nodata.tobytes()  # type: ignore[union-attr]
        assert entry.timing.warnings == ("odd",)
        assert journal.vectors([entry], "float32", 5).tobytes() == matrix.tobytes()
    journal.close()


def test_failed_cells_and_a_failed_shard_have_no_vectors(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", IDENTITY)
    journal.append(CellTiming("p", 3, status="failed", error="cut"), None, None)
    journal.append(CellTiming("p", None, status="failed", error="not Parquet"), None, None)
    journal.close()
    journal = Journal(tmp_path / "j", IDENTITY)
    assert {row: entry.timing.error for row, entry in journal.entries.items()} == {3: "cut", None: "not Parquet"}
    journal.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_torn_or_damaged_end_is_cut_at_the_last_whole_frame(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    fill(path, 4)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
    journal = Journal(path, IDENTITY)
    survivors = list(journal.entries)
    assert survivors == list(range(len(survivors)))
    journal.append(CellTiming("p", 99), record(99), np.zeros((3, 5), np.float32))
    journal.close()
    again = Journal(path, IDENTITY)
    assert list(again.entries) == [*survivors, 99]
    again.close()


def test_another_identity_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "j", 1)
    with pytest.raises(ValueError, match="rows"):
        Journal(tmp_path / "j", {**IDENTITY, "rows": 8})


WRITE_UNTIL_FULL = """
import numpy as np, sys
from pathlib import Path
from mtembed.dataset.journal import Journal
from mtembed.types import CellTiming
journal = Journal(Path(sys.argv[1]), {})
try:
    for row in range(1000):
        journal.append(CellTiming("p", row), None, np.zeros(1000, np.float32))
except OSError as error:
    print(error.errno, row)
"""


def test_a_full_disk_leaves_a_whole_journal(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_001, 50_001))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WRITE_UNTIL_FULL, str(tmp_path / "j")],
        capture_output=True, text=True, check=True, preexec_fn=limit, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    number, rows = map(int, done.stdout.split())
    assert number == errno.EFBIG
    journal = Journal(tmp_path / "j", {})
    assert list(journal.entries) == list(range(rows))
    journal.close()


def test_a_cell_that_a_part_has_did_not_fail_though_an_older_journal_says_so(tmp_path: Path) -> None:
    """A machine was lost with it, another one made the part, the first comes back to try failed cells again."""
    dataset = Dataset(tmp_path)
    dataset.create()
    dataset.work.mkdir()
    job = WriteJob(tmp_path, dataset.board, 0, 1, "", 8, "float32", False, "settings")
    info = PartInfo(0, "part_0.parquet", "part_0", Fingerprint())
    made = UnfinishedPart(job, info, False)
    made.append(record(0), CellTiming(info.name, 0), np.ones((3, 8), np.float32))
    made.append(None, CellTiming(info.name, 1, status="failed", stage="decode", error="odd"), None)
    made.close()
    UnfinishedPart(job, info, False).finish({})
    older = UnfinishedPart(job, info, True)
    older.append(None, CellTiming(info.name, 0, status="failed", stage="read", error="the network was down"), None)
    facts = older.finish({})
    assert (facts.cells, facts.failed, facts.embeddings) == (1, 1, 3)
