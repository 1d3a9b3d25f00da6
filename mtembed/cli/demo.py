"""``mtembed demo``: the packaged sample through the whole pipeline, one dataset for each source, and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mtembed.config import RunConfig
from mtembed.dataset.folder import output_problem
from mtembed.errors import OutputError
from mtembed.run.embed import Plan, plan
from mtembed.types import Source

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
SOURCES: tuple[Source, ...] = ("S2L1C", "S2L2A", "S1RTC")
MODEL = "rcf"
REAL_CHIP = (792, 792, 224)  # row, column, side in px: see sample/README.md
REAL_NOTE = "White frame: the part of the sample that is real; the rest of the cell mirrors it."


def shard(source: Source) -> Path:
    """The sample's shard of a source: one row, the same cell in all."""
    return SAMPLE / f"Core-{source}" / "images" / "part_00001.parquet"


def plans(output: Path, fresh: bool = False) -> Iterator[Plan]:
    """What is to be run, source by source, each into a folder of its own below ``output``."""
    for source in SOURCES:
        folder = str(output / source)
        yield plan(RunConfig(shards=(str(shard(source)),), model=MODEL, output=folder, fresh=fresh))


def draw(output: Path) -> Path:
    """Draw what is in ``output``; returns the picture's path.  Raises OutputError."""
    from mtembed.maps.picture import Panel, draw

    parts = [output / source / "embeddings" / "part_00001.parquet" for source in SOURCES]
    panels = [
        Panel(source, shard(source), part, REAL_CHIP, REAL_NOTE) for source, part in zip(SOURCES, parts, strict=True)
    ]
    path = output / "demo.png"
    try:
        draw(panels, path)
    except OSError as error:
        raise OutputError(output_problem(output, error)) from error
    return path


def next_steps(output: Path) -> str:
    """What to type after the demo."""
    return f"""\
Next:
  mtembed report {output}/S2L2A        where the time went
  mtembed verify {output}/S2L2A        check what was written
  mtembed models                       models and the bands they need
  mtembed --model ssl4eo-s2 --output my-embeddings path/to/Core-S2L1C/images"""
