"""Output folders that cannot be written: one sentence, nothing corrupt, and the run goes on when it is mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tools.commands import embeddings, run
from tests.tools.shards import make_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return make_shard(tmp_path / "images/part_0.parquet", 6, "S1RTC").path


def command(shard: Path, output: Path) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), str(shard)]


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_file_in_its_place(shard: Path, tmp_path: Path, inside: str) -> None:
    (tmp_path / "taken").write_text("mine")
    code, _, err = run(command(shard, tmp_path / "taken" / inside))
    assert code == 1
    assert "stands in its way" in err and "--output" in err and "Traceback" not in err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_may_not_be_written(shard: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(command(shard, tmp_path / "locked" / "out"))
    assert code == 1
    assert "Permission denied" in err and "--output" in err and "Traceback" not in err


@pytest.mark.parametrize("row_group", [0, 3])
def test_a_folder_that_is_removed_while_running(shard: Path, tmp_path: Path, row_group: int) -> None:
    calm, output = tmp_path / "calm", tmp_path / "out"
    assert run(command(shard, calm))[0] == 0
    fault = {"kind": "device", "function": "mtembed.engine.cpu:CpuDevice.embed", "row_group": row_group}
    code, _, err = run(command(shard, output), [{**fault, "action": f"delete-folder:{output}"}])
    assert code == 1
    assert "was removed" in err and "same command" in err and "Traceback" not in err
    code, _, err = run(command(shard, output))
    assert code == 0, err
    assert embeddings(output) == embeddings(calm)
