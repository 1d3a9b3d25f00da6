"""``mtembed demo``: the packaged sample through the whole pipeline, one dataset for each source, and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.console import INTERRUPTED
from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.run import execute
from mtembed.config import RunConfig

if TYPE_CHECKING:
    from mtembed.run.plan import Plan
    from mtembed.types import Source

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
SOURCES: tuple[Source, ...] = ("S2L1C", "S2L2A", "S1RTC")
MODEL = "rcf"
REAL_CHIP = (792, 792, 224)  # row, column, side in px: see sample/README.md
REAL_NOTE = "White frame: the part of the sample that is real; the rest of the cell mirrors it."


def demo(
    *,
    output: Annotated[Path, Parameter(help="Where the datasets and the picture go.")] = Path("mtembed-demo"),
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Embed the sample that ships with mtembed, draw the result, say what comes next.

    Needs no network, no weights and no GPU.
    """
    worst = 0
    for planned in plans(output, fresh):
        code = execute(planned, talk)
        if code == INTERRUPTED:
            return code
        worst = max(worst, code)
    picture = draw(output)
    talk.show(f"{picture}: the picture\n\n{next_steps(output)}", [{"event": "picture", "path": str(picture)}])
    return worst


def shard(source: Source) -> Path:
    """The sample's shard of a source: one row, the same cell in all."""
    return SAMPLE / f"Core-{source}" / "images" / "part_00001.parquet"


def plans(output: Path, fresh: bool = False) -> Iterator[Plan]:
    """What is to be run, source by source, each into a folder of its own below ``output``."""
    from mtembed.run.plan import plan

    for source in SOURCES:
        folder = str(output / source)
        yield plan(RunConfig(shards=(str(shard(source)),), model=MODEL, output=folder, fresh=fresh))


def draw(output: Path) -> Path:
    """Draw what is in ``output``; returns the picture's path.  Raises OutputError."""
    from mtembed.dataset.folder import output_problem
    from mtembed.errors import OutputError
    from mtembed.maps import picture

    parts = [output / source / "embeddings" / "part_00001.parquet" for source in SOURCES]
    panels = [
        picture.Panel(source, shard(source), part, REAL_CHIP, REAL_NOTE)
        for source, part in zip(SOURCES, parts, strict=True)
    ]
    path = output / "demo.png"
    try:
        picture.draw(panels, path)
    except OSError as error:
        raise OutputError(output_problem(output, error)) from error
    return path


def next_steps(output: Path) -> str:
    """What to type after the demo."""
    steps = (
        (f"mtembed report {output}/S2L2A", "where the time went"),
        (f"mtembed verify {output}/S2L2A", "check what was written"),
        ("mtembed models", "models and the bands they need"),
        ("mtembed --model ssl4eo-s2 path/to/Core-S2L1C/images", "embed your own"),
    )
    width = max(len(command) for command, _ in steps)
    return "\n".join(["Next:", *(f"  {command:<{width}}  {what}" for command, what in steps)])
