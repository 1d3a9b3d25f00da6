"""A small archive and the dataset that a run made of it, to be damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtembed.run.embed import embed
from tests.tools.shards import Shard, cut, default_cells, make_shard, write_metadata

OPTIONS: dict[str, Any] = {"model": "rcf", "fragment_size": 32, "device": "cpu", "workers": 1}


@dataclass(frozen=True)
class Made:
    """An archive of three shards (a cell of the second is broken, the third is no Parquet) and what was made of it."""

    root: Path
    shards: tuple[Shard, ...]


def make_dataset(folder: Path) -> Made:
    """``folder/Core`` and ``folder/out``: 5 cells of 9 fragments in 3 parts, a failed cell and a failed shard."""
    images = folder / "Core" / "images"
    cells = default_cells(5)
    first = make_shard(images / "part_00001.parquet", cells[:3])
    second = make_shard(images / "part_00002.parquet", cells[2:], damage={(1, "B03"): cut})
    write_metadata(folder / "Core" / "metadata.parquet", [first, second])
    (images / "part_00003.parquet").write_bytes(b"PAR1, but not much more")
    summary = embed(folder / "Core", **OPTIONS, output=str(folder / "out"), extras=True)
    assert summary.exit_code == 3  # two failures: a cell and a shard
    return Made(folder / "out", (first, second))
