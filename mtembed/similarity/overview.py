"""One picture of a search: what the satellite saw, how the model sees it, and what is like one place of it.

A column for each cell.  Above: the pixels, with the place that is looked for and the fragments most like it; in the
middle: fragments coloured by the first three principal components of all vectors; below: how alike each is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.dataset.atomic import write_atomically
from mtembed.dataset.reader import open_dataset
from mtembed.errors import OutputError
from mtembed.maps.picture import colours_of
from mtembed.similarity.result import Hit
from mtembed.similarity.scoring import cosines
from mtembed.similarity.sheet import cell_images
from mtembed.types import FloatArray

INK, QUERY, SAME, OTHER = "#30343b", "#ffffff", "#35d0ff", "#ffb000"
WIDTH_IN, DPI = 3.0, 100
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """All fragments of some cells: vectors [n, D], boxes [n, 4] in pixels, cell names [n]."""

    vectors: FloatArray
    boxes: npt.NDArray[np.int64]
    cells: npt.NDArray[np.object_]

    @classmethod
    def of(cls, dataset: Path) -> Fragments:
        """Of a small dataset, whole."""
        found = list(open_dataset(dataset).batches(("grid_cell", "pixel_bbox")))
        boxes = [np.array(batch.table["pixel_bbox"].to_pylist(), np.int64) for batch in found]
        names = [np.asarray(batch.table["grid_cell"].to_numpy()) for batch in found]
        vectors = [batch.vectors for batch in found if batch.vectors is not None]
        return cls(np.concatenate(vectors), np.concatenate(boxes), np.concatenate(names))


def draw(
    dataset: Path,
    shards: Sequence[str],
    query: Hit,
    hits: Sequence[Hit],
    titles: Mapping[str, str],
    note: str,
    path: Path,
) -> None:
    """Write the picture as a PNG; ``titles`` names the cells that are shown, in order.  Raises OutputError."""
    from matplotlib.figure import Figure

    fragments = Fragments.of(dataset)
    colours = colours_of(fragments.vectors.astype(np.float64))
    alike = _alike(fragments, query)
    images = cell_images(shards, set(titles))
    figure = Figure(figsize=(WIDTH_IN * len(titles), 3 * WIDTH_IN + 0.9), layout="constrained", facecolor="white")
    axes = figure.subplots(3, len(titles), squeeze=False)
    for column, (cell, title) in zip(axes.T, titles.items(), strict=True):
        here = fragments.cells == cell
        image = images[cell]
        shown = (image, _spread(fragments.boxes[here], colours[here], image), None)
        column[0].set_title(title, fontsize=11, color=INK)
        for axis, pixels in zip(column[:2], shown[:2], strict=True):
            axis.imshow(pixels, interpolation="nearest")
        values = _spread(fragments.boxes[here], alike[here][:, None], image)[..., 0]
        column[2].imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        _outline(column[0], cell, query, hits)
        for axis in column:
            axis.set_axis_off()
    figure.supxlabel(note, fontsize=9, color=INK)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    try:
        write_atomically(path, drawn.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another --output") from error


def _alike(fragments: Fragments, query: Hit) -> Numbers:
    """For each fragment the share of all that are less like the query than it is."""
    box = np.array(query.pixel_bbox)
    mine = (fragments.cells == query.grid_cell) & (fragments.boxes == box).all(axis=1)
    looked_for = fragments.vectors[mine][0]
    score = cosines(fragments.vectors, looked_for / np.linalg.norm(looked_for))
    return np.asarray(score.argsort().argsort() / max(1, len(score) - 1), np.float64)


def _spread(boxes: npt.NDArray[np.int64], values: Numbers, image: npt.NDArray[Any]) -> Numbers:
    """Values of fragments [n, k] as an image [rows, cols, k]; where fragments overlap, their mean."""
    sums, count = np.zeros((*image.shape[:2], values.shape[1])), np.zeros((*image.shape[:2], 1))
    for (left, top, right, bottom), value in zip(boxes.tolist(), values, strict=True):
        sums[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    return np.asarray(sums / np.maximum(count, 1), np.float64)


def _outline(axis: Any, cell: str, query: Hit, hits: Sequence[Hit]) -> None:
    from matplotlib.patches import Rectangle

    for hit in (*hits, query):
        if hit.grid_cell != cell or hit.pixel_bbox is None:
            continue
        left, top, right, bottom = hit.pixel_bbox
        colour = QUERY if hit is query else SAME if hit.grid_cell == query.grid_cell else OTHER
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.8))
