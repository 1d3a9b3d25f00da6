"""Wall time of what a user waits for: help, the first cell, the resume of a large finished dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.conftest import Paired
from tests.tools.shards import default_cells, make_shard

ROOT = Path(__file__).resolve().parents[1]
PARTS = 5000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*words: str) -> None:
    subprocess.run([sys.executable, *words], env=ENVIRONMENT, check=True, capture_output=True)


@pytest.mark.benchmark(group="start")
def test_help(paired: Paired) -> None:
    paired(lambda: command("-m", "mtembed", "--help"), lambda: command("-c", "pass"), "python -c pass", 10)


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("model", ["rcf", "ssl4eo-s1", "dinov2"])
def test_first_cell(paired: Paired, tmp_path: Path, model: str) -> None:
    """From nothing to a finished dataset of a single cell."""
    source = "S2L2A" if model == "dinov2" else "S1RTC"
    sample = str(ROOT / f"mtembed/sample/Core-{source}/images/part_00001.parquet")
    weights = [] if model == "rcf" else ["--weights", "random:1"]
    named = ("-m", "mtembed", "--model", model, *weights, "--fresh", "--output", str(tmp_path / "out"), sample)
    torch = ("-c", "import torch, timm")
    paired(lambda: command(*named), lambda: command(*torch), "python -c 'import torch, timm'", 3)


@pytest.mark.benchmark(group="start")
def test_resume_5000_parts(paired: Paired, smallest: bool, tmp_path: Path) -> None:
    arguments = dataset(tmp_path, 3 if smallest else PARTS)
    pyarrow = ("-c", "import pyarrow.parquet")
    paired(lambda: command(*arguments), lambda: command(*pyarrow), "python -c 'import pyarrow.parquet'", 6)


def dataset(folder: Path, parts: int) -> list[str]:
    """A finished dataset of ``parts`` parts: one that was made, under many names."""
    first = make_shard(folder / "images/part_00000.parquet", default_cells(1, 32), "S1RTC").path
    output = folder / "out"
    arguments = ["-m", "mtembed", "--model", "rcf", "--fragment-size", "32", "--output", str(output), str(folder)]
    command(*arguments)
    manifest = json.loads((output / "manifest.json").read_text())
    facts = manifest["shards"]["part_00000"]
    for number in range(1, parts):
        stem = f"part_{number:05d}"
        for path in (first, output / "embeddings/part_00000.parquet", output / "timings/part_00000.parquet"):
            os.link(path, path.with_stem(stem))
        manifest["shards"][stem] = {**facts, "shard": f"{stem}.parquet"}
    del manifest["digest"]
    (output / "manifest.json").write_text(json.dumps(manifest))
    return arguments
