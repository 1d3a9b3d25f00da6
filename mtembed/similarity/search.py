"""``mtembed search``: the rows of a dataset that are most like some examples, among those that pass the filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from mtembed.dataset.finding import Name
from mtembed.errors import UsageError
from mtembed.similarity import example
from mtembed.similarity import query as queries
from mtembed.similarity.filters import Filters, filters
from mtembed.similarity.nearest import Wanted, nearest
from mtembed.similarity.output import SUFFIXES, require_new, write_hits
from mtembed.similarity.query import Example
from mtembed.similarity.result import Hit, SearchResult
from mtembed.similarity.rows import KNOWN, SCHEMA, require
from mtembed.similarity.scoring import Best, Integers, Mask, Names
from mtembed.similarity.target import Target, open_target
from mtembed.types import Tick

Vector = Name | npt.NDArray[np.floating]
MOST_HITS = 100_000


def search(
    dataset: Name | Sequence[Name],
    *,
    row: str | Sequence[str] = (),
    minus_row: str | Sequence[str] = (),
    at: tuple[float, float] | Sequence[tuple[float, float]] = (),
    vector: Vector | Sequence[Vector] = (),
    image: Name | Sequence[Name] = (),
    text: str | Sequence[str] = (),
    top: int = 10,
    bbox: tuple[float, float, float, float] | None = None,
    polygon: Name | None = None,
    after: str | None = None,
    before: str | None = None,
    cells: Name | None = None,
    per_cell: bool = False,
    exclude_same_cell: bool = False,
    exact: bool = False,
    weights: str | None = None,
    output: Name | None = None,
    picture: Name | None = None,
    shards: Name | Sequence[Name] = (),
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> SearchResult:
    """Find the rows whose vectors have the greatest cosine with that of the examples.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, several of these that are one dataset, or the folder of an index.
    row, minus_row
        Examples and counter-examples: the ``unique_id`` of rows, or the first characters of it.
    at
        Latitude and longitude of places: the row that holds each is an example.
    vector
        Vectors [D] or [n, D], or .npy files of them.
    image
        Pictures for models of red, green and blue, GeoTIFFs of the model's bands for all.
    text
        Words, for models with a text tower.
    top
        How many hits.
    bbox, polygon
        W, S, E, N in degrees (W > E: across the antimeridian); a file of polygons. Centres of rows lie inside.
    after, before
        Dates such as 2020, 2020-06, 2020-06-30: from then on; until then, exclusive.
    cells
        A file of names of grid cells.
    per_cell
        At most one hit of each grid cell.
    exclude_same_cell
        No hit of an example's own cell, and none that shares ground with it.
    exact
        Leave a dataset's index aside and compare every row.
    weights
        The dataset's weights file, for ``image`` and ``text``. Default: those its manifest names.
    output
        File for the hits: .parquet (GeoParquet), .geojson or .csv.
    picture, shards
        A PNG of the hits' pixels, read from the shards that were embedded.
    fresh
        Write over files that are there.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what cannot be done, OutputError for files that cannot be read or written.
    """
    if not 1 <= top <= MOST_HITS:
        raise UsageError(f"--top {top} is not possible: choose from 1 to {MOST_HITS:,}")
    written, drawn = (None if path is None else Path(path) for path in (output, picture))
    if written is not None:
        require_new("output", written, SUFFIXES, fresh)
    if drawn is not None:
        require_new("picture", drawn, (".png",), fresh)
    if (drawn is None) != (not shards):
        raise UsageError("--picture and --shards belong together: give both")
    wanted = filters(bbox, polygon, after, before, cells)
    target = open_target(dataset, exact, tick)
    places = [at] if isinstance(at, tuple) and at and not isinstance(at[0], tuple) else at
    examples = [
        *queries.of_rows(target, _several(row), "row"),
        *queries.of_places(target, places),  # type: ignore[arg-type]
        *queries.of_vectors(target, _several(vector)),
        *_embedded(target, _several(image), _several(text), weights),
    ]
    counter = queries.of_rows(target, _several(minus_row), "minus-row")
    result = _Search(target, examples, counter, wanted, tick).run(top, per_cell, exclude_same_cell)
    if written is not None:
        write_hits(written, result.hits, footprints(target, result.hits))
    if drawn is not None:
        from mtembed.similarity.sheet import draw

        draw(result.hits, [str(name) for name in _several(shards)], drawn)
    return result


def _embedded(target: Target, images: Sequence[Name], texts: Sequence[str], weights: str | None) -> list[Example]:
    """Pictures and words, through the model that made the dataset.  Raises UsageError where it is not known."""
    if not images and not texts:
        return []
    if target.dataset is None:
        option = "--image" if images else "--text"
        raise UsageError(f"{option} needs the dataset of {target.name}, which is not where it was: name the dataset")
    dataset = target.dataset.dataset
    return [
        *(Example(f"--image {name}", example.of_image(dataset, weights, Path(name))) for name in images),
        *(Example(f"--text {words}", example.of_text(dataset, weights, words)) for words in texts),
    ]


def _several(given: Any) -> list[Any]:
    """One or several of something, as a list."""
    return [given] if isinstance(given, str | Path | np.ndarray) else list(given)


def footprints(target: Target, hits: Sequence[Hit]) -> Names:
    """The footprint of each hit in degrees, or its centre, or None."""
    shapes = np.full(len(hits), None, np.object_)
    for i, hit in enumerate(hits):
        if hit.centre_lat is not None and hit.centre_lon is not None:
            shapes[i] = shapely.Point(hit.centre_lon, hit.centre_lat)
    dataset = target.dataset
    if dataset is not None and "geometry" in dataset.dataset.columns and hits:
        first = dict(zip(dataset.names, dataset.starts.tolist(), strict=False))
        ids = np.array([first[hit.file] + hit.row for hit in hits], np.int64)
        shapes = np.asarray(shapely.from_wkb(dataset.raw(ids, ("geometry",))["geometry"].to_numpy()), np.object_)
    return shapes


class _Search:
    """One search of one target."""

    def __init__(
        self, target: Target, examples: Sequence[Example], counter: Sequence[Example], wanted: Filters, tick: Tick
    ) -> None:
        self.target, self.examples, self.counter, self.filters, self._tick = target, examples, counter, wanted, tick
        self.vector = queries.combined(examples, counter)

    def run(self, top: int, per_cell: bool, exclude_same_cell: bool) -> SearchResult:
        rows = self.target.rows
        if per_cell:
            require(rows, ("grid_cell",), "--per-cell", "leave it out")
        left_out = np.empty(0, np.int64)
        if exclude_same_cell:
            left_out = self._own_ground()
        mask = self._mask(left_out)
        wanted = Wanted(self.vector, top, per_cell, mask)

        def count(done: int) -> None:
            self._tick("comparing", done, rows.count)

        best, method = nearest(self.target, wanted, count)
        passed = wanted.passed
        if not len(best.ids):
            raise UsageError(f"no row of {self.target.name} passes the filters: leave one of them out")
        return SearchResult(
            hits=self._hits(best),
            dataset=self.target.name,
            model=self.target.model,
            query=tuple(example.name for example in (*self.examples, *self.counter)),
            rows=rows.count,
            passed=rows.count if passed is None else passed,
            method=method,
            notes=self.target.notes,
        )

    def _own_ground(self) -> Integers:
        """Rows that are to be no hits because they share ground with an example; its cell becomes a filter."""
        rows = self.target.rows
        own = [example.row for example in self.examples if example.row is not None]
        if not own:
            raise UsageError(
                "--exclude-same-cell needs an example with a cell: give one with --row or --at, or leave it out"
            )
        require(rows, ("grid_cell",), "--exclude-same-cell", "leave it out")
        names = rows.take(np.array(own, np.int64), ("grid_cell",))["grid_cell"].to_pylist()
        self.filters = replace(self.filters, without_cells=frozenset(name for name in names if name is not None))
        return queries.overlapping(self.target, own)

    def _mask(self, left_out: Integers) -> Mask | None:
        """Which rows may be hits; None where all may."""
        rows, columns = self.target.rows, self.filters.columns
        if not columns and not len(left_out):
            return None
        options = {"centre_lat": "a filter by place", "timestamp": "a filter by time", "grid_cell": "a filter by cell"}
        for column, what in options.items():
            if column in columns:
                require(rows, (column,), what, "leave the filter out")
        mask = np.ones(rows.count, np.bool_)
        for first, table in rows.batches(columns) if columns else ():
            mask[first : first + table.num_rows] = self.filters.passing(table)
            self._tick("filtering", first + table.num_rows, rows.count)
        mask[left_out] = False
        return mask

    def _hits(self, best: Best) -> tuple[Hit, ...]:
        rows = self.target.rows
        table = rows.take(best.ids, (*(name for name in KNOWN if name in rows.columns), "file", "row"))
        found = [{**dict.fromkeys(SCHEMA.names), **line} for line in table.to_pylist()]
        scored = zip(best.scores.tolist(), found, strict=True)
        return tuple(_hit(rank, score, line) for rank, (score, line) in enumerate(scored, 1))


def _hit(rank: int, score: float, line: dict[str, object]) -> Hit:
    box = line.pop("pixel_bbox")
    place = {name: None if line[name] is None else float(line[name]) for name in ("centre_lat", "centre_lon")}  # type: ignore[arg-type]
    return Hit(rank=rank, score=score, pixel_bbox=tuple(box) if box else None, **{**line, **place})  # type: ignore[arg-type]
