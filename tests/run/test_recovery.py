"""Killed anywhere, any time, the next start of the same command finishes the dataset, byte for byte the same."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mtembed.dataset.members import names
from tests.soak import soak
from tests.tools.commands import embeddings, leftovers, run, start, wait_for, workers_of
from tests.tools.shards import default_cells, make_shard, write_metadata

KILL: dict[str, Any] = {"action": "kill"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small shards of Sentinel-1."""
    folder = tmp_path_factory.mktemp("archive")
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", default_cells(15)[5 * number : 5 * number + 5], "S1RTC")
        for number in range(3)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


def command(archive: Path, output: Path, *more: str) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), *more, str(archive)]


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(archive, output))
    assert code == 0, err
    return embeddings(output)


def assert_finished(archive: Path, output: Path, expected: dict[str, bytes], *more: str) -> None:
    code, _, err = run(command(archive, output, *more))
    assert code == 0, err
    assert embeddings(output) == expected
    assert leftovers(output) == []
    assert (output / "failures.jsonl").read_text() == ""


POINTS: list[tuple[str, str, dict[str, Any]]] = [
    ("writer, before its third frame", "write", {"function": "os:writev", "call": 3}),
    ("writer, half a frame written", "write", {"function": "os:writev", "call": 4, "action": "half"}),
    ("finisher, part written but not synced", "finish", {"function": "os:fsync", "call": 1}),
    ("finisher, before the part's rename", "finish", {"function": "os:replace", "call": 1}),
    ("finisher, between the two renames", "finish", {"function": "os:replace", "call": 2}),
    ("finisher, before the journal is removed", "finish", {"function": "os:unlink", "call": 1}),
    ("decode worker, in its second cell", "decode", {"function": "mtembed.archive.cell:decode_cell", "call": 2}),
    ("decode worker, opening a shard", "decode", {"function": "mtembed.archive.listing:list_shard", "call": 2}),
    ("device worker, in its second cell", "device", {"function": "mtembed.engine.cpu:CpuDevice.embed", "call": 2}),
]


@pytest.mark.parametrize(("kind", "fault"), [p[1:] for p in POINTS], ids=[p[0] for p in POINTS])
def test_one_start_survives_the_death_of_a_worker(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, kind: str, fault: dict[str, Any]
) -> None:
    """The cell goes to another worker and the same start finishes."""
    once = str(tmp_path / "once")
    code, _, err = run(command(archive, tmp_path / "out"), [{**KILL, "kind": kind, **fault, "once": once}])
    assert code == 0, err
    assert Path(once).exists(), "the fault never happened"
    assert embeddings(tmp_path / "out") == expected
    assert leftovers(tmp_path / "out") == []


PARENT_POINTS: list[tuple[str, dict[str, Any]]] = [
    ("first manifest", {"kind": "parent", "function": "os:replace", "call": 1}),
    ("failures", {"kind": "parent", "function": "os:replace", "call": 2}),
    ("card", {"kind": "parent", "function": "os:replace", "call": 3}),
    ("last manifest", {"kind": "parent", "function": "os:replace", "call": 4}),
    ("unlocking", {"kind": "parent", "function": "os:unlink", "call": 1}),
    ("group, in a rename", {"kind": "finish", "function": "os:replace", "call": 2, "action": "kill-group"}),
    ("group, in a frame", {"kind": "write", "function": "os:writev", "call": 6, "action": "kill-group"}),
]


@pytest.mark.parametrize("fault", [p[1] for p in PARENT_POINTS], ids=[p[0] for p in PARENT_POINTS])
def test_the_next_start_finishes_after_the_death_of_the_parent(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, fault: dict[str, Any]
) -> None:
    process = start(command(archive, tmp_path / "out"), [{**KILL, **fault, "once": str(tmp_path / "once")}])
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert workers_of(process.pid) == {}
    assert_finished(archive, tmp_path / "out", expected)


@pytest.mark.parametrize("call", [2, 3, 4])
def test_the_end_of_a_run_that_was_cut_off_is_written_again(archive: Path, tmp_path: Path, call: int) -> None:
    """Manifest, list of failures and card are of one time, though nothing is left to be embedded."""
    output = tmp_path / "out"
    assert run(command(archive / "images/part_0.parquet", output))[0] == 0
    segfault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}
    killed = {**KILL, "kind": "parent", "function": "mtembed.dataset.folder:Dataset.write", "call": call}
    assert run(command(archive, output), [segfault, killed])[0] == -signal.SIGKILL
    code, _, err = run(command(archive, output))
    assert code == 3 and "nothing to do" in err
    code, out, err = run(["verify", str(output), "--shards", str(archive)])
    assert code == 0 and "README.md" not in out + err, out + err


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_times(archive: Path, expected: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    soak(command(archive, tmp_path / "out"), 5, random.Random(seed))
    assert_finished(archive, tmp_path / "out", expected)


@pytest.mark.parametrize(
    ("kind", "function", "action", "words"),
    [
        ("decode", "mtembed.archive.cell:decode_cell", "segfault", "SIGSEGV"),
        ("device", "mtembed.engine.cpu:CpuDevice.embed", "segfault", "SIGSEGV"),
        ("device", "mtembed.engine.cpu:CpuDevice.embed", "out-of-memory", "MemoryError"),
    ],
)
def test_a_cell_that_ends_two_workers_is_a_failed_cell(
    archive: Path, tmp_path: Path, kind: str, function: str, action: str, words: str
) -> None:
    output = tmp_path / "out"
    fault = {"kind": kind, "function": function, "row_group": 2, "action": action}
    code, _, err = run(command(archive, output, "--max-failures", "1"), [fault])
    assert code == 3, err
    failures = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert [(f["shard"], f["row_group"]) for f in failures] == [(f"part_{i}.parquet", 2) for i in range(3)]
    assert all(words in f["error"] for f in failures), failures
    rows = sum(pq.read_metadata(path).num_rows for path in (output / "embeddings").iterdir())
    assert rows == 3 * 4 * 9


def test_failed_cells_are_tried_again_only_when_asked(
    archive: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    fault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}
    assert run(command(archive, output), [fault])[0] == 3
    code, _, err = run(command(archive, output))
    assert code == 3 and "nothing to do" in err
    assert_finished(archive, output, expected, "--retry-failed")


@pytest.mark.parametrize("call", [1, 2])
def test_a_retry_that_is_killed_in_its_renames_goes_on(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, call: int
) -> None:
    output = tmp_path / "out"
    fault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}
    assert run(command(archive, output), [fault])[0] == 3
    killed = {"kind": "finish", "function": "os:replace", "call": call, "action": "kill-group"}
    assert run(command(archive, output, "--retry-failed"), [killed])[0] == -signal.SIGKILL
    assert_finished(archive, output, expected, "--retry-failed")


def test_a_hanging_worker_is_replaced(archive: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    fault = {
        "kind": "decode", "function": "mtembed.archive.cell:decode_cell", "call": 2, "action": "hang",
        "once": str(tmp_path / "once"),
    }  # fmt: skip
    code, _, err = run(command(archive, tmp_path / "out", "--stall-timeout", "20"), [fault])
    assert code == 0, err
    assert embeddings(tmp_path / "out") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_ends_gracefully_and_says_how_to_go_on(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, number: int
) -> None:
    process = start(command(archive, tmp_path / "out"))
    wait_for(lambda: list((tmp_path / "out/.mtembed").glob("*.journal*")), process)
    began = time.monotonic()
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 15
    assert "run the same command again" in err
    assert workers_of(process.pid) == {}
    assert_finished(archive, tmp_path / "out", expected)


def test_the_second_signal_ends_at_once(archive: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    fault = {"kind": "device", "function": "mtembed.engine.cpu:CpuDevice.embed", "call": 1, "action": "hang"}
    process = start(command(archive, tmp_path / "out"), [fault])
    wait_for(lambda: list((tmp_path / "out/.mtembed").glob("*.journal*")), process)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: not _pending(process.pid, signal.SIGINT), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert workers_of(process.pid) == {}
    assert_finished(archive, tmp_path / "out", expected)


def _pending(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) & (1 << (number - 1)):
            return True
    return False


@pytest.mark.parametrize(
    ("kind", "function", "call"), [("write", "os:writev", 4), ("finish", "os:fsync", 1), ("finish", "os:replace", 2)]
)
def test_a_full_disk_is_an_error_and_goes_on_after_space_is_made(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, kind: str, function: str, call: int
) -> None:
    """In the journal, in the part, and between the part and its timings."""
    fault = {"kind": kind, "function": function, "call": call, "action": "disk-full"}
    code, _, err = run(command(archive, tmp_path / "out"), [fault])
    assert code == 1
    assert "No space left" in err and "make space" in err and "Traceback" not in err
    assert_finished(archive, tmp_path / "out", expected)


def test_two_runs_on_one_folder(archive: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """The second takes over what the first, which hangs, had when it was killed."""
    fault = {"kind": "device", "function": "mtembed.engine.cpu:CpuDevice.embed", "call": 1, "action": "hang"}
    first = start(command(archive, tmp_path / "out"), [fault])
    wait_for(lambda: list((tmp_path / "out/.mtembed").glob("*.journal*")), first)
    second = start(command(archive, tmp_path / "out"))
    wait_for(lambda: len(names(tmp_path / "out/.mtembed")) == 2, second)
    first.kill()
    first.communicate(timeout=30)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert_finished(archive, tmp_path / "out", expected)


def test_several_processes_share_one_folder(archive: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    both = [
        start(command(archive, tmp_path / "out", "--shard-count", "2", "--shard-index", str(index))) for index in (0, 1)
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    parts = {name: pq.read_table(tmp_path / "out/embeddings" / name) for name in expected}
    assert len(parts) == 3
    assert leftovers(tmp_path / "out") == []
    code, _, err = run(["finish", str(tmp_path / "out")])
    assert code == 0 and [path.name for path in (tmp_path / "out").glob("manifest*")] == ["manifest.json"], err
