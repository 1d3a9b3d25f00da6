"""Damaged parts are made again: by the run where it notices them, by ``verify --repair`` wherever they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mtembed.check.verify import verify
from mtembed.run.embed import embed
from tests.tools.commands import embeddings, run
from tests.tools.datasets import OPTIONS, Made, make_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_dataset(tmp_path_factory.mktemp("repair"))


@pytest.fixture
def root(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.root, tmp_path / "out"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_run_makes_again_what_it_finds_damaged(made: Made, root: Path) -> None:
    """A part that is too short, and timings with a flipped bit, from which failures would be copied."""
    part = root / "embeddings/part_00001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    flip(root / "timings/part_00002.parquet", 60)
    assert verify(root).bad_parts == {"part_00001", "part_00002"}
    images = made.shards[0].path.parent
    embed(images, **OPTIONS, output=str(root), extras=True, metadata=str(images.parent / "metadata.parquet"))
    assert embeddings(root) == embeddings(made.root)
    assert verify(root, [images]).ok


def test_verify_repairs(made: Made, root: Path) -> None:
    """A flipped bit that no run looks for."""
    flip(root / "embeddings/part_00001.parquet", 5000)
    images = str(made.shards[0].path.parent)
    code, out, err = run(["verify", str(root), "--repair", "--shards", images, "--json"])
    assert code == 0, err
    first, *_, last = [json.loads(line) for line in out.splitlines()]
    assert first["bad_parts"] == ["part_00001"] and last["ok"]
    assert embeddings(root) == embeddings(made.root)


def test_nothing_is_removed_without_the_input(made: Made, root: Path) -> None:
    flip(root / "embeddings/part_00001.parquet", 5000)
    before = embeddings(root)
    code, _, err = run(["verify", str(root), "--repair", "--shards", str(made.shards[1].path)])
    assert code == 2 and "the input of part_00001 is not among --shards" in err
    assert embeddings(root) == before
