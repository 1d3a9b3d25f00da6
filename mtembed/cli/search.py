"""``mtembed search``: the rows that are most like some examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from mtembed.cli.options import SPEECH, Talk
from mtembed.cli.working import working
from mtembed.config import BBOX, FILE, WHOLE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mtembed.similarity.result import SearchResult

QUERY = Parameter(group=Group("What to look for (each may be repeated, all are mixed)", sort_key=10), negative=())
FILTERS = Parameter(group=Group("Which rows (before anything is ranked)", sort_key=20))
FILES = Parameter(group=Group("What is written", sort_key=30), negative=())
HOW = Parameter(group=Group("How", sort_key=40))
ID = Parameter(metavar="UNIQUE_ID")
ID_SHOWN = 12  # characters of a unique_id in a table: enough for --row


@dataclass(frozen=True, slots=True)
class Examples:
    """What to look for.

    Parameters
    ----------
    row
        A row, by its unique_id or the first characters of it.
    minus_row
        A counter-example: hits are turned away from this row.
    at
        A place: the row that holds it.
    vector
        A .npy file of one vector, or of several.
    image
        A picture (models of red, green and blue), or a GeoTIFF of the model's bands.
    text
        Words (models with a text tower).
    """

    row: Annotated[tuple[str, ...], ID, QUERY] = ()
    minus_row: Annotated[tuple[str, ...], ID, QUERY] = ()
    at: Annotated[tuple[str, ...], Parameter(metavar="LAT,LON", allow_leading_hyphen=True), QUERY] = ()
    vector: Annotated[tuple[str, ...], FILE, QUERY] = ()
    image: Annotated[tuple[str, ...], FILE, QUERY] = ()
    text: Annotated[tuple[str, ...], Parameter(metavar="WORDS"), QUERY] = ()

    def places(self) -> list[tuple[float, float]]:
        """Latitude and longitude of each place.  Raises UsageError."""
        from mtembed.errors import UsageError

        found = []
        for text in self.at:
            try:
                lat, lon = map(float, text.split(","))
            except ValueError:
                raise UsageError(f"--at {text} is no place: give LAT,LON in degrees, such as 45.1,7.65") from None
            found.append((lat, lon))
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows may be hits.

    Parameters
    ----------
    bbox
        Only rows whose centre lies in W,S,E,N (degrees; W > E goes across the antimeridian).
    polygon
        Only rows whose centre lies in a polygon of this file: GeoJSON, GeoPackage, shapefile or GeoParquet.
    after
        Only rows from this date on: 2020, 2020-06 or 2020-06-30.
    before
        Only rows before this date.
    cells
        Only cells named in this file: text, one a line, or Parquet with a grid_cell column.
    per_cell
        At most one hit of each grid cell.
    exclude_same_cell
        No hit of an example's own cell, and none that shares ground with it.
    """

    bbox: Annotated[tuple[float, float, float, float] | None, BBOX, FILTERS] = None
    polygon: Annotated[Path | None, FILE, FILTERS] = None
    after: Annotated[str | None, Parameter(metavar="DATE"), FILTERS] = None
    before: Annotated[str | None, Parameter(metavar="DATE"), FILTERS] = None
    cells: Annotated[Path | None, FILE, FILTERS] = None
    per_cell: Annotated[bool, FILTERS] = False
    exclude_same_cell: Annotated[bool, FILTERS] = False


def search(
    datasets: Annotated[
        tuple[str, ...],
        Parameter(name="DATASET", negative=(), help="Embeddings (folder, glob, files, address), or an index's folder."),
    ],
    /,
    *,
    examples: Annotated[Examples | None, Parameter(name="*")] = None,
    choice: Annotated[Choice | None, Parameter(name="*")] = None,
    top: Annotated[int, WHOLE, HOW, Parameter(help="How many hits.")] = 10,
    exact: Annotated[bool, HOW, Parameter(help="Compare every row, whatever index there is.")] = False,
    weights: Annotated[
        str | None, FILE, HOW, Parameter(help="The weights of the dataset's model, for --image and --text.")
    ] = None,
    output: Annotated[Path | None, FILE, FILES, Parameter(help="Hits as .parquet, .geojson or .csv.")] = None,
    picture: Annotated[
        Path | None, Parameter(metavar="FILE.png"), FILES, Parameter(help="A contact sheet of the hits' pixels.")
    ] = None,
    shards: Annotated[
        tuple[str, ...],
        FILES,
        Parameter(help="The shards that were embedded, for --picture.", consume_multiple=True),
    ] = (),
    fresh: Annotated[bool, FILES, Parameter(help="Write over files that are there.")] = False,
    talk: Talk = SPEECH,
) -> int:
    """Find the rows of a dataset that are most like a row, a place, a vector, a picture or words.

    Several examples are one query, turned away from the counter-examples (--minus-row). An index of the
    dataset is used where there is one (mtembed index); without one every row is compared.
    """
    from mtembed.similarity.search import search as find

    chosen, asked = choice or Choice(), examples or Examples()
    with working(talk) as tick:
        result = find(
            datasets if len(datasets) > 1 else datasets[0],
            row=asked.row, minus_row=asked.minus_row, at=asked.places(), vector=asked.vector, image=asked.image,
            text=asked.text, top=top, bbox=chosen.bbox, polygon=chosen.polygon, after=chosen.after,
            before=chosen.before, cells=chosen.cells, per_cell=chosen.per_cell,
            exclude_same_cell=chosen.exclude_same_cell, exact=exact, weights=weights, output=output, picture=picture,
            shards=shards, fresh=fresh, tick=tick,
        )  # fmt: skip
    files = [str(path) for path in (output, picture) if path is not None]
    talk.show(view(result, files), _events(result, files))
    return 0


def _events(result: SearchResult, files: Sequence[str]) -> list[dict[str, Any]]:
    hits = [hit.as_json() for hit in result.hits]
    return [
        *({"event": "hit", **hit} for hit in hits),
        {"event": "result", **asdict(result), "hits": hits, "files": files},
    ]


def view(result: SearchResult, files: Sequence[str]) -> RenderableType:
    """The hits as a table, and how they were found."""
    from rich.console import Group as Together

    from mtembed.cli.tables import Columns, lines
    from mtembed.text import plural

    rows = [
        (
            str(hit.rank), f"{hit.score:.4f}", (hit.unique_id or "-")[:ID_SHOWN], hit.grid_cell or "-",
            _place(hit.centre_lat, hit.centre_lon), _date(hit.timestamp), f"{hit.file}:{hit.row}",
        )
        for hit in result.hits
    ]  # fmt: skip
    headings = ("", "cosine", "unique_id", "cell", "lat, lon", "time", "file:row")
    table = Columns(headings, rows, numbers=("", "cosine"), optional=("file:row",))
    passed = "" if result.passed == result.rows else f"{result.passed:,} pass the filters, "
    how = "every one compared" if result.method == "exact" else "found through the index"
    said = [f"{plural(result.rows, 'row')} of {result.dataset}: {passed}{how}"]
    return Together(table, lines("", *said, *result.notes, *(f"{name}: written" for name in files)))


def _place(lat: float | None, lon: float | None) -> str:
    return "-" if lat is None or lon is None else f"{lat:.4f}, {lon:.4f}"


def _date(stamp: str | None) -> str:
    """'2020-06-30 10:30' of 20200630T103000."""
    if not stamp:
        return "-"
    digits = stamp.replace("T", "")
    if len(digits) < 12 or not digits.isdecimal():
        return stamp
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]} {digits[8:10]}:{digits[10:12]}"
