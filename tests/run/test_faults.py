"""Trouble that comes back every time ends as a failed cell, a failed shard or an ended run; never in a loop or a wait.

``tests/campaign.py`` tries every stage with every trouble; here are the cases that differ in how they are handled.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.campaign import Case, archive, command, problems
from tests.tools.commands import embeddings, run, start, wait_for, workers_of
from tests.tools.shards import default_cells, make_shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(shards, output))
    assert code == 0, err
    return embeddings(output)


CASES = [
    Case("open shard", "kill", "always"),
    Case("open shard", "KeyError", "first"),
    Case("decode", "KeyError", "first"),
    Case("embed", "KeyError", "first"),
    Case("open part", "kill", "first"),
    Case("append", "kill", "first"),
    Case("append", "KeyError", "always"),
    Case("finish", "kill", "always"),
    Case("finish", "out-of-memory", "first"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stage}, {case.trouble}, {case.extent}")
def test_a_run_in_trouble_ends_with_its_cause_and_the_next_one_is_whole(
    shards: Path, expected: dict[str, bytes], tmp_path: Path, case: Case
) -> None:
    assert problems(case, shards, tmp_path / "out", expected) == []


def test_a_shard_without_part_is_a_line_and_keeps_what_was_finished(
    shards: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    code, _, err = run(command(shards, output), [Case("finish", "kill", "first").fault()])
    assert code == 3 and "no part could be made of part_0.parquet" in err
    (failure,) = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert (failure["shard"], failure["row_group"], failure["stage"]) == ("part_0.parquet", None, "write")
    assert "SIGKILL" in failure["error"]
    assert [path.name for path in (output / ".mtembed").glob("*.journal")] == ["part_0.journal"]
    counted = tmp_path / "embedded"
    count = {"kind": "device", "function": "mtembed.engine.cpu:CpuDevice.embed", "action": f"count:{counted}"}
    code, _, err = run(command(shards, output), [count])
    assert code == 0 and embeddings(output) == expected, err
    assert not counted.exists(), "its cells were safe"
    assert (output / "failures.jsonl").read_text() == ""


def test_two_deaths_of_a_writer_that_are_not_a_parts_fault_cost_nothing(
    shards: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Two of them, in the same part, at different cells."""
    faults = [
        {
            "kind": "write",
            "function": "os:writev",
            "call": call,
            "action": "kill",
            "once": str(tmp_path / f"{call}"),
        }
        for call in (2, 3)
    ]
    code, _, err = run(command(shards, tmp_path / "out", "--workers", "1"), faults)
    assert code == 0, err
    assert (tmp_path / "2").exists() and (tmp_path / "3").exists() and embeddings(tmp_path / "out") == expected


@pytest.mark.parametrize("kind", ["decode", "device", "write"])
def test_a_stopped_worker_does_not_hold_an_interrupt(
    shards: Path, expected: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    """Nor does it outlive its parent."""
    output, stage = tmp_path / "out", {"decode": "decode", "device": "embed", "write": "append"}[kind]
    once = tmp_path / "once"
    process = start(
        command(shards, output),
        [{**Case(stage, "stop", "always").fault(), "once": str(once)}],
    )
    wait_for(once.exists, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert workers_of(process.pid) == {}
    code, _, err = run(command(shards, output))
    assert code == 0 and embeddings(output) == expected, err


def test_texts_of_a_cell_are_small_or_the_cell_fails(tmp_path: Path) -> None:
    """A name of 300 kB once filled the sockets in both directions."""
    cells = default_cells(12)
    cells = [replace(cell, product_id="x" * 300_000) if row % 2 else cell for row, cell in enumerate(cells)]
    shard = make_shard(tmp_path / "images/part_0.parquet", cells, "S1RTC").path
    code, _, err = run(command(shard, tmp_path / "out"))
    assert code == 3, err
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert [failure["row_group"] for failure in failures] == list(range(1, 12, 2))
    assert all("product_id has more than 1024 bytes" in failure["error"] for failure in failures)
    assert all(len(failure["product_id"]) <= 1024 for failure in failures)


def test_a_shard_whose_name_is_not_utf8_is_a_line_and_holds_nobody(shards: Path, tmp_path: Path) -> None:
    """Such a name once ended every writer at the end of its part."""
    source = (shards / "images/part_0.parquet").read_bytes()
    images = tmp_path / "images"
    images.mkdir()
    for name in (b"part_0.parquet", b"part_\xe9.parquet"):
        Path(os.fsdecode(os.fsencode(images) + b"/" + name)).write_bytes(source)
    code, _, err = run(command(images, tmp_path / "out"))
    assert code == 3 and "Traceback" not in err, err
    (line,) = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert line["row_group"] is None and "a name that is not UTF-8" in line["error"]
    assert sorted(embeddings(tmp_path / "out")) == ["part_0.parquet", r"part_\xe9.parquet"]


def damaged(path: Path) -> None:
    """One bit of its vectors is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [damaged, cut])
@pytest.mark.parametrize("folder", ["embeddings", "timings"])
def test_a_damaged_part_is_not_carried_on_but_made_again(
    tmp_path: Path, folder: str, damage: Callable[[Path], None]
) -> None:
    """Its failed cell is tried again; the others may not be taken over from damaged pages."""
    shard = make_shard(tmp_path / "images/part_0.parquet", 4, "S1RTC").path
    calm, output = tmp_path / "calm", tmp_path / "out"
    assert run(command(shard, calm))[0] == 0
    fault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "KeyError"}
    assert run(command(shard, output), [fault])[0] == 3
    damage(output / folder / "part_0.parquet")
    code, _, err = run(command(shard, output, "--retry-failed"))
    assert code == 0 and "made again" in err, err
    assert embeddings(output) == embeddings(calm)


def test_a_shard_that_is_replaced_while_the_run_lasts_is_not_mixed_with_the_other(tmp_path: Path) -> None:
    """Cells that come after that fail; none of the other file's pixels go into the part."""
    shard = make_shard(tmp_path / "images/part_0.parquet", 6, "S1RTC").path
    other = make_shard(tmp_path / "other.parquet", default_cells(12)[6:], "S1RTC").path
    calm, output = tmp_path / "calm", tmp_path / "out"
    assert run(command(shard, calm))[0] == 0
    decode = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "call": 3}
    code, _, err = run(command(shard, output, "--workers", "1"), [{**decode, "action": f"replace:{other}:{shard}"}])
    assert code == 3, err
    lines = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert lines and all("was replaced while the run lasted" in line["error"] for line in lines), lines
    whole = pq.read_table(calm / "embeddings/part_0.parquet")["unique_id"].to_pylist()
    found = pq.read_table(output / "embeddings/part_0.parquet")["unique_id"].to_pylist()
    assert found and set(found) < set(whole)
