"""``mtembed demo``: the packaged samples through everything: vectors, a map, an index, a search, a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mtembed.cli.console import INTERRUPTED
from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.run import execute
from mtembed.config import RunConfig

if TYPE_CHECKING:
    from mtembed.run.plan import Plan
    from mtembed.similarity.result import Hit
    from mtembed.types import Source

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
SOURCES: tuple[Source, ...] = ("S2L1C", "S2L2A", "S1RTC")
MODEL = "rcf"
PLACES, TRAINED = "places", "galileo-nano"  # whose weights ship with mtembed
FRAGMENT = {"fragment_size": 24, "overlap": 0.5}  # 240 m: fields and beaches are larger
TITLES = {"282D_485L": "Brazil, coast", "433D_629L": "Chile, farms and forest", "637U_59R": "Denmark, fields"}
QUERY = ("433D_629L", (156, 12, 180, 36))  # a green field in Chile: its cell and pixels
TOP = 6
NOTE = (
    "Above: 2.2 km of real Sentinel-2 pixels.  White: what is looked for; blue: most like it here; orange: elsewhere.\n"
    "Middle: fragments of 240 m in the colours of their vectors.  Below: the brighter, the more like the white one."
)


def demo(
    *,
    output: Annotated[Path, Parameter(help="Where the datasets and the picture go.")] = Path("mtembed-demo"),
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Embed the samples that ship with mtembed, map and search them, draw the result, say what comes next.

    Needs no network, no download and no GPU.
    """
    worst = 0
    for planned in plans(output, fresh):
        code = execute(planned, talk)
        if code == INTERRUPTED:
            return code
        worst = max(worst, code)
    talk.show(*story(output, fresh))
    return worst


def shard(source: Source) -> Path:
    """The sample's shard of a source: one row, the same cell in all."""
    return SAMPLE / f"Core-{source}" / "images" / "part_00001.parquet"


def plans(output: Path, fresh: bool = False) -> Iterator[Plan]:
    """What is to be run: source by source, and three places in small fragments, each into a folder below ``output``."""
    from mtembed.run.plan import plan

    for source in SOURCES:
        folder = str(output / source)
        yield plan(RunConfig(shards=(str(shard(source)),), model=MODEL, output=folder, fresh=fresh))
    places: dict[str, Any] = {"output": str(output / PLACES), "fresh": fresh, **FRAGMENT}
    yield plan(RunConfig(shards=(str(SAMPLE / PLACES),), model=TRAINED, **places))


def story(output: Path, fresh: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """Map, index, search and picture of the places; what to say of them, for people and for machines.

    Raises OutputError where a file cannot be written.
    """
    from mtembed.maps.pca import pca
    from mtembed.similarity.index import index
    from mtembed.similarity.overview import draw
    from mtembed.similarity.search import search

    dataset = output / PLACES
    mapped = pca(dataset, fragments="all", fresh=fresh)
    index(dataset, fresh=fresh)
    query = _query(dataset)
    row = str(query.unique_id)
    found = search(dataset, row=row, top=TOP)
    elsewhere = search(dataset, row=row, top=TOP, exclude_same_cell=True)
    picture = output / "demo.png"
    draw(dataset, [str(SAMPLE / PLACES)], query, (*found.hits[1:], *elsewhere.hits), TITLES, NOTE, picture)
    text = "\n".join(
        (
            f"What is like this green field in Chile (mtembed search {dataset} --row {row[:12]}):",
            *(_line(hit) for hit in found.hits[1:4]),
            "and elsewhere (--exclude-same-cell):",
            *(_line(hit) for hit in elsewhere.hits[:3]),
            "",
            f"{picture}: the picture",
            f"{mapped.output / 'map.png'}: where the places are, in the colours of their vectors",
            "",
            next_steps(output),
        )
    )
    return text, [{"event": "picture", "path": str(picture)}]


def _query(dataset: Path) -> Hit:
    """The row that is looked for."""
    from mtembed.dataset.reader import open_dataset
    from mtembed.similarity.search import search

    cell, box = QUERY
    for batch in open_dataset(dataset).batches(("unique_id", "grid_cell", "pixel_bbox"), vectors=False):
        for row in batch.table.to_pylist():
            if (row["grid_cell"], tuple(row["pixel_bbox"])) == (cell, box):
                return search(dataset, row=row["unique_id"], top=1).hits[0]
    raise LookupError(f"{dataset} has no fragment {box} of {cell}")


def _line(hit: Hit) -> str:
    return f"  {hit.score:.4f}  {TITLES[str(hit.grid_cell)]:<24}  {hit.centre_lat:8.4f} {hit.centre_lon:9.4f}"


def next_steps(output: Path) -> str:
    """What to type after the demo."""
    steps = (
        (f"mtembed report {output}/S2L2A", "where the time went"),
        (f"mtembed verify {output}/S2L2A", "check what was written"),
        (f"mtembed search {output}/places --at -25.323,-48.112", "search by place"),
        ("mtembed models", "models and the bands they need"),
        ("mtembed --model ssl4eo-s2 path/to/Core-S2L1C/images", "embed your own"),
    )
    width = max(len(command) for command, _ in steps)
    return "\n".join(["Next:", *(f"  {command:<{width}}  {what}" for command, what in steps)])
