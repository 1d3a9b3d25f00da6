"""``mtembed search``: rows like a query, as a table, as files, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working
from mtembed.config import BBOX, WHOLE

if TYPE_CHECKING:
    from mtembed.cli.tables import Columns
    from mtembed.similarity.result import SearchResult

QUERY = Group("What to look for", sort_key=1)
WHERE = Group("Where to look", sort_key=2)
SHOWN = Group("What to show", sort_key=3)


def _place(_: Any, tokens: Sequence[Any]) -> tuple[tuple[float, float], ...]:
    found = []
    for token in tokens:
        try:
            lat, lon = map(float, token.value.split(","))
        except ValueError:
            raise ValueError("give latitude,longitude in degrees, such as 48.2,16.4") from None
        found.append((lat, lon))
    return tuple(found)


AT = Parameter(
    converter=_place, n_tokens=1, allow_leading_hyphen=True, metavar="LAT,LON", group=QUERY,
    help="A place: the row there. May be given several times.",
)  # fmt: skip


def search(
    dataset: Annotated[
        tuple[str, ...],
        Parameter(name="DATASET", negative=(), help="A folder of embeddings, a glob, files, or an index."),
    ],
    /,
    *,
    row: Annotated[
        tuple[str, ...],
        Parameter(metavar="UNIQUE_ID", negative=(), group=QUERY, help="A row by its unique_id, or its first letters."),
    ] = (),
    minus_row: Annotated[
        tuple[str, ...],
        Parameter(metavar="UNIQUE_ID", negative=(), group=QUERY, help="A row that hits shall not be like."),
    ] = (),
    at: Annotated[tuple[tuple[float, float], ...], AT] = (),
    vector: Annotated[
        tuple[Path, ...], Parameter(metavar="FILE.npy", negative=(), group=QUERY, help="A vector, or several.")
    ] = (),
    image: Annotated[
        tuple[Path, ...],
        Parameter(metavar="FILE", negative=(), group=QUERY, help="A GeoTIFF with the model's bands, or a picture."),
    ] = (),
    text: Annotated[str | None, Parameter(metavar="WORDS", group=QUERY, help="Words, for models that read.")] = None,
    weights: Annotated[
        str | None,
        Parameter(metavar="FILE", group=QUERY, help="The model's weights, for --image and --text, if they were moved."),
    ] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        BBOX,
        Parameter(group=WHERE, help="Only rows whose centre lies in W,S,E,N (degrees)."),
    ] = None,
    polygon: Annotated[
        Path | None, Parameter(metavar="FILE", group=WHERE, help="Only rows whose centre lies in these polygons.")
    ] = None,
    after: Annotated[
        str | None, Parameter(metavar="DATE", group=WHERE, help="Only rows from this date on, such as 2021-06.")
    ] = None,
    before: Annotated[
        str | None, Parameter(metavar="DATE", group=WHERE, help="Only rows up to the end of this date.")
    ] = None,
    cells: Annotated[
        Path | None, Parameter(metavar="FILE", group=WHERE, help="Only rows of the cells that this file names.")
    ] = None,
    per_cell: Annotated[bool, Parameter(group=WHERE, help="Only the best row of each cell.")] = False,
    exclude_same_cell: Annotated[
        bool, Parameter(group=WHERE, help="Leave out the cells of the rows that are looked for.")
    ] = False,
    top: Annotated[int, WHOLE, Parameter(group=SHOWN, help="How many hits.")] = 10,
    output: Annotated[
        Path | None, Parameter(metavar="FILE", group=SHOWN, help="Hits as .parquet, .geojson or .csv.")
    ] = None,
    picture: Annotated[
        Path | None, Parameter(metavar="FILE.png", group=SHOWN, help="The hits' pixels side by side, from --shards.")
    ] = None,
    shards: Annotated[tuple[str, ...], Parameter(negative=(), group=SHOWN, help="Shards with those pixels.")] = (),
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Find the rows of a dataset that are most like a row, a place, a vector, a picture or words.

    Several examples are one query: their mean, less half the mean of the counter-examples (--minus-row). Filters come
    before ranking. Large datasets are searched through their index (mtembed index), others row by row.
    """
    from mtembed.errors import UsageError
    from mtembed.similarity import output as files
    from mtembed.similarity.search import search as find

    if (picture is None) != (not shards):
        raise UsageError("--picture and --shards belong together: give both")
    _require_new([path for path in (output, picture) if path is not None], fresh)
    if output is not None:
        files.require_suffix(output)
    with working(talk) as tick:
        found = find(
            dataset[0] if len(dataset) == 1 else dataset,
            row=row, minus_row=minus_row, at=at, vector=vector, image=image, text=text, top=top, bbox=bbox,
            polygon=polygon, after=after, before=before, cells=cells, per_cell=per_cell,
            exclude_same_cell=exclude_same_cell, weights=weights, tick=tick,
        )  # fmt: skip
    written: dict[str, str] = {}
    if output is not None:
        files.write(found.hits, output)
        written["output"] = str(output)
    if picture is not None:
        from mtembed.similarity.sheet import draw

        draw(found.hits, shards, picture)
        written["picture"] = str(picture)
    _show(found, written, talk)
    return 0


def _require_new(paths: Sequence[Path], fresh: bool) -> None:
    from mtembed.errors import SettingsError

    for path in paths:
        if path.exists() and not fresh:
            raise SettingsError(f"{path} exists: choose another name, or replace it with --fresh")


def _show(found: SearchResult, written: dict[str, str], talk: Talk) -> None:
    from mtembed.cli.console import say

    facts = [{"event": "hit", **hit.record()} for hit in found.hits]
    result = {
        "event": "result", "hits": len(found.hits), "rows": found.rows, "selected": found.selected,
        "exact": found.exact, "recall_at_10": found.recall_at_10, "not_finite": found.not_finite,
        "notes": list(found.notes), **written,
    }  # fmt: skip
    if not talk.json and not talk.quiet:
        for note in found.notes:
            say(note)
    talk.show(_table(found), [*facts, result])
    if written and not talk.json and not talk.quiet:
        say("\n".join(written.values()))


def _table(found: SearchResult) -> Columns | str:
    from mtembed.cli.tables import Columns
    from mtembed.text import plural

    if not found.hits:
        return f"no hits: the filters leave {plural(found.selected, 'row')} of {found.rows:,}"
    rows = [
        [
            str(hit.rank),
            f"{hit.score:.4f}",
            hit.grid_cell or "-",
            (hit.timestamp or "-")[:8],
            "-" if hit.centre_lat is None else f"{hit.centre_lat:.4f}",
            "-" if hit.centre_lon is None else f"{hit.centre_lon:.4f}",
            (hit.unique_id or f"{hit.file}:{hit.row}")[:12],
        ]
        for hit in found.hits
    ]
    return Columns(
        ("rank", "score", "cell", "date", "latitude", "longitude", "unique_id"),
        rows,
        numbers=("rank", "score", "latitude", "longitude"),
        optional=("date",),
    )
