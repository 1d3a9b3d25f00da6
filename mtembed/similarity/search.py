"""``mtembed search``: the rows of a dataset that are most like a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtembed.dataset.files import Name
from mtembed.dataset.places import columns_for
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.errors import UsageError
from mtembed.similarity import example
from mtembed.similarity.best import Best
from mtembed.similarity.filters import Bbox, filters
from mtembed.similarity.opened import OpenIndex, dataset_names, is_index
from mtembed.similarity.query import Examples, Place, target
from mtembed.similarity.result import Hit, SearchResult
from mtembed.similarity.rows import SCHEMA, described
from mtembed.similarity.scan import Tick, scan
from mtembed.text import plural

Many = Name | Iterable[Name] | None


def search(
    dataset: Name | Sequence[Name],
    *,
    row: Many = None,
    minus_row: Many = None,
    at: Place | Iterable[Place] | None = None,
    vector: Many = None,
    image: Many = None,
    text: str | None = None,
    top: int = 10,
    bbox: Bbox | None = None,
    polygon: Name | None = None,
    after: str | None = None,
    before: str | None = None,
    cells: Name | None = None,
    per_cell: bool = False,
    exclude_same_cell: bool = False,
    weights: Name | None = None,
    tick: Tick = lambda what, done, total: None,
) -> SearchResult:
    """Find the rows of a dataset that are most like a query, by the cosine of their vectors.

    Parameters
    ----------
    dataset
        A dataset of embeddings (with the index in its folder ``index`` where there is one), or an index.
    row, minus_row
        Rows by ``unique_id`` (or its first letters) that hits shall be like, and unlike.
    at
        Places (latitude, longitude) in degrees: the row there.
    vector
        .npy files of one vector [D] or of several [n, D].
    image
        Pictures or GeoTIFFs, embedded by the model of the dataset.
    text
        Words, for models with a text tower.
    top
        How many hits. There are fewer only where the filters leave fewer rows.
    bbox, polygon, after, before, cells
        Only rows whose centre lies in W,S,E,N or in a file's polygons, in a span of time, in named cells.
    per_cell
        Only the best row of each cell.
    exclude_same_cell
        Leave out the cells of the rows that the query is made of.
    weights
        File of the model's weights, for ``image`` and ``text``. Default: those that the dataset names.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what cannot be asked, OutputError for files that cannot be read.
    """
    if top < 1:
        raise UsageError(f"--top {top} is not possible: choose 1 or more")
    examples = Examples(
        rows=tuple(map(str, _several(row))),
        minus_rows=tuple(map(str, _several(minus_row))),
        places=_places(at),
        vectors=tuple(map(Path, _several(vector))),
        images=tuple(map(Path, _several(image))),
        text=text,
    )
    wanted = filters(bbox, polygon, after, before, cells)
    opened, index, notes = _opened(dataset)
    if per_cell or exclude_same_cell or wanted.cells is not None:
        opened.require(["grid_cell"], "a choice by cells")
    weighed = None if weights is None else str(weights)
    query = target(
        opened, examples, partial(example.of_image, opened, weighed), partial(example.of_text, opened, weighed)
    )
    if exclude_same_cell:
        wanted = replace(wanted, without=query.cells)
    if index is None:
        best, left = scan(opened, query.direction, wanted, top, per_cell, tick)
        exact = True
    else:
        best, left, exact = index.search(query.direction, wanted, top, per_cell, tick)
        if index.poor and not exact:
            notes.append(f"the index finds {index.recall:.0%} of the nearest rows only: expect misses")
    if best.not_finite:
        notes.append(f"{plural(best.not_finite, 'vector')} left out (NaN, infinite or zero)")
    return SearchResult(
        hits=_hits(opened, best),
        rows=opened.rows,
        selected=left,
        exact=exact,
        recall_at_10=None if exact or index is None else index.recall,
        not_finite=best.not_finite,
        notes=tuple(notes),
    )


def _several(value: Many) -> tuple[Name, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path) else tuple(value)


def _places(at: Place | Iterable[Place] | None) -> tuple[Place, ...]:
    if at is None:
        return ()
    found = tuple(at)
    pairs = [found] if len(found) == 2 and all(isinstance(one, int | float) for one in found) else found
    return tuple((float(one[0]), float(one[1])) for one in pairs)  # type: ignore[index]


def _opened(name: Name | Sequence[Name]) -> tuple[EmbeddingDataset, OpenIndex | None, list[str]]:
    """The dataset, an index of it that fits, and what to say of one that does not."""
    path = Path(name) if isinstance(name, str | Path) else None
    if path is not None and is_index(path):
        opened = _dataset_of(path)
        index = OpenIndex(path, opened)
        if index.stale:
            return opened, None, [_stale(path)]
        return opened, index, []
    opened = open_dataset(name)
    if path is None or not is_index(path / "index"):
        return opened, None, []
    index = OpenIndex(path / "index", opened)
    if index.stale:
        return opened, None, [_stale(path / "index")]
    return opened, index, []


def _dataset_of(root: Path) -> EmbeddingDataset:
    names = dataset_names(root)
    try:
        return open_dataset(names[0] if len(names) == 1 else names)
    except UsageError as error:
        raise UsageError(
            f"the dataset of {root} is not where it was ({error}): name the dataset itself, or make the index again"
        ) from error


def _stale(root: Path) -> str:
    return f"{root} is of other files than are there now, so every row is compared: mtembed index --fresh renews it"


def _hits(opened: EmbeddingDataset, best: Best) -> tuple[Hit, ...]:
    """The rows with all that is known of them."""
    columns = columns_for(opened, SCHEMA.names)
    found: dict[tuple[int, int], dict[str, object]] = {}
    for file in np.unique(best.file).tolist():
        rows = best.row[best.file == file]
        _, table = opened.take(file, rows, columns, vectors=False)
        known: pa.Table = described(table, opened.files[file].name, rows)
        found |= {(file, int(row)): one for row, one in zip(rows, known.to_pylist(), strict=True)}
    hits = []
    for rank, (score, file, row) in enumerate(zip(best.score, best.file, best.row, strict=True), 1):
        known_of = found[int(file), int(row)]
        box = known_of["pixel_bbox"]
        hits.append(Hit(rank=rank, score=float(score), **{**known_of, "pixel_bbox": box and tuple(box)}))  # type: ignore[arg-type]
    return tuple(hits)
