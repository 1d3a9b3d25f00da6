"""Any number of processes work on one folder: they come, go, are killed and stopped, and the dataset is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtembed.dataset.board import FolderBoard
from mtembed.dataset.claims import owners
from mtembed.dataset.members import names
from tests.tools.commands import embeddings, leftovers, run, start, wait_for
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS = 7, 3
LEASE = ("--lease", "3")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cells = default_cells(SHARDS * CELLS)
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
        for number in range(SHARDS)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


def command(archive: Path, output: Path, *more: str) -> list[str]:
    small = ("--slots", "2", "--workers", "1", "--share-of-machine", "0.5")
    return ["--model", "rcf", "--fragment-size", "32", *small, "--output", str(output), *more, str(archive)]


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a run of one process."""
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(archive, output))
    assert code == 0, err
    return embeddings(output)


def ended(process: subprocess.Popen[str]) -> str:
    """What it said; it has come to its end without failures."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    return err


def has_claims(work: Path, count: int = 1) -> bool:
    try:
        return len(owners(FolderBoard(work), "claim")) >= count
    except FileNotFoundError:
        return False


def has_cells(work: Path) -> bool:
    """Whether a journal has more than its head."""
    return any(path.stat().st_size > 1000 for path in work.glob("*.journal.*") if path.exists())


def assert_whole(archive: Path, output: Path, expected: dict[str, bytes]) -> None:
    assert embeddings(output) == expected and leftovers(output) == []
    code, out, err = run(["verify", str(output), "--shards", str(archive)])
    assert code == 0, out + err
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["complete"] and manifest["totals"]["cells"] == SHARDS * CELLS and len(manifest["shards"]) == SHARDS
    rows = [pq.read_table(path, columns=["row_group"]).num_rows for path in (output / "timings").iterdir()]
    assert rows == [CELLS] * SHARDS
    assert (output / "failures.jsonl").read_text() == "" and [path.name for path in output.glob("manifest*")] == [
        "manifest.json"
    ]


def status(output: Path) -> dict[str, object]:
    code, out, err = run(["status", str(output), "--json"])
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def test_three_processes_one_killed_one_added_with_another_shard(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, begun: list[subprocess.Popen[str]]
) -> None:
    partial, output, work = tmp_path / "archive", tmp_path / "out", tmp_path / "out/.mtembed"
    shutil.copytree(archive, partial)
    (partial / "images/part_0.parquet").unlink()  # the one that will be added sorts first
    begun += [start(command(partial, output)) for _ in range(3)]
    wait_for(lambda: has_claims(work, 3), begun[0])
    os.killpg(begun[1].pid, signal.SIGKILL)
    shutil.copy(archive / "images/part_0.parquet", partial / "images")
    begun.append(start(command(partial, output)))
    for process in (begun[0], *begun[2:]):
        ended(process)
    assert_whole(archive, output, expected)
    found = status(output)
    assert found["complete"] and found["done_share"] == 1.0 and found["processes"] == 0
    assert (found["cells"], found["shards"]) == (SHARDS * CELLS, SHARDS)


def test_a_stopped_process_loses_its_shards_and_makes_nothing_twice(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, begun: list[subprocess.Popen[str]]
) -> None:
    """What it had half done is taken over, and finished by another; when it goes on it finds everything done."""
    output, work = tmp_path / "out", tmp_path / "out/.mtembed"
    begun.append(start(command(archive, output, *LEASE)))
    wait_for(lambda: has_claims(work) and has_cells(work), begun[0])
    os.killpg(begun[0].pid, signal.SIGSTOP)
    (stopped,) = names(work)
    assert stopped in owners(FolderBoard(work), "claim").values()
    assert status(output)["processes"] == 1
    begun.append(start(command(archive, output, *LEASE)))
    ended(begun[1])
    parts = {path.name: path.stat().st_mtime_ns for path in (output / "embeddings").iterdir()}
    assert len(parts) == SHARDS
    os.killpg(begun[0].pid, signal.SIGCONT)
    ended(begun[0])
    assert {path.name: path.stat().st_mtime_ns for path in (output / "embeddings").iterdir()} == parts
    assert_whole(archive, output, expected)


def test_the_number_of_a_static_deal_may_change_and_finish_joins_it(
    archive: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for index, count in ((0, 2), (2, 3), (1, 3), (0, 3)):
        code, _, err = run(command(archive, output, "--shard-index", str(index), "--shard-count", str(count)))
        assert code == 0, err
    assert embeddings(output) == expected
    code, out, err = run(["finish", str(output), "--json"])
    found = json.loads(out)
    assert code == 0 and found["complete"] and found["joined"] == 4 and found["missing"] == []
    assert_whole(archive, output, expected)


def test_finish_names_what_is_missing(archive: Path, tmp_path: Path, begun: list[subprocess.Popen[str]]) -> None:
    output, work = tmp_path / "out", tmp_path / "out/.mtembed"
    begun.append(start(command(archive, output)))
    wait_for(lambda: has_claims(work) and has_cells(work), begun[0])
    os.killpg(begun[0].pid, signal.SIGSTOP)
    code, _, err = run(["finish", str(output)])
    assert code == 1 and "is in use by process" in err and "finishes the dataset by itself" in err
    os.killpg(begun[0].pid, signal.SIGKILL)
    begun[0].communicate()
    code, out, err = run(["finish", str(output)])
    assert code == 1 and "without a part: part_" in out and "run the same command again" in out, err
    assert run(["status", str(output)])[1].count("nobody is at work here") == 1
    code, _, err = run(command(archive, output))
    assert code == 0, err
    assert json.loads((output / "manifest.json").read_text())["complete"] and leftovers(output) == []


def test_fresh_is_refused_beside_a_process(archive: Path, tmp_path: Path, begun: list[subprocess.Popen[str]]) -> None:
    output, work = tmp_path / "out", tmp_path / "out/.mtembed"
    begun.append(start(command(archive, output)))
    wait_for(lambda: has_claims(work), begun[0])
    os.killpg(begun[0].pid, signal.SIGSTOP)
    code, _, err = run(command(archive, output, "--fresh"))
    assert code == 1 and "--fresh removes nothing beside it" in err


@pytest.mark.parametrize("name", ["nothing", "."])
def test_status_and_finish_want_a_dataset(tmp_path: Path, name: str) -> None:
    for word in ("status", "finish"):
        code, _, err = run([word, str(tmp_path / name)])
        assert code == 2 and "name the --output folder of a run" in err
        assert not (tmp_path / ".mtembed").exists()
