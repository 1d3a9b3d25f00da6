"""A contact sheet: the pixels of the hits, side by side, from the shards they were embedded from."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.archive import tiff
from mtembed.archive.reader import ShardReader, blob_of
from mtembed.archive.shards import find_shards, open_shard
from mtembed.dataset.atomic import write_atomically
from mtembed.errors import CellError, OutputError, ShardError, UsageError
from mtembed.maps.picture import stretched
from mtembed.parquet import UNREADABLE, as_texts
from mtembed.similarity.result import Hit
from mtembed.sources import SOURCES, source_of
from mtembed.storage.address import Place

ACROSS, CHIP_IN, DPI = 5, 1.9, 110
INK = "#30343b"
Key = tuple[str, str]
Image = npt.NDArray[np.float32]


def draw(hits: Sequence[Hit], shards: Iterable[str], path: Path) -> int:
    """Write a PNG of the hits; returns how many of them were found in the shards.

    Raises UsageError where none was, and OutputError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    chips = _chips(hits, shards)
    if not chips:
        raise UsageError("--shards hold none of the hits' cells: name the shards that the dataset was made from")
    columns = min(ACROSS, len(hits))
    rows = -(-len(hits) // columns)
    figure = Figure(figsize=(CHIP_IN * columns, (CHIP_IN + 0.42) * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, hit in zip(axes, hits, strict=False):
        _draw(axis, hit, chips.get(hit.rank))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    try:
        write_atomically(path, drawn.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another --picture") from error
    return len(chips)


def _draw(axis: Any, hit: Hit, chip: Image | None) -> None:
    day = (hit.timestamp or "")[:8]
    date = f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 else ""
    axis.set_title(f"{hit.rank}.  {hit.score:.4f}\n{hit.grid_cell or ''}  {date}", fontsize=8, color=INK)
    if chip is None:
        axis.text(0.5, 0.5, "not in\nthese shards", ha="center", va="center", fontsize=8, color=INK)
    else:
        axis.imshow(chip, interpolation="nearest")


def _chips(hits: Sequence[Hit], shards: Iterable[str]) -> dict[int, Image]:
    """Pictures by rank, of the hits whose cells are in the shards."""
    wanted = {(hit.grid_cell or "", hit.product_id or "") for hit in hits}
    cells = {cell for cell, _ in wanted}
    found: dict[int, Image] = {}
    reader = ShardReader()
    for path in find_shards(tuple(shards)):
        for row_group, key in _rows(path):
            if key[0] not in cells:
                continue
            here = [hit for hit in hits if hit.rank not in found and _same(hit, key)]
            if here:
                image = _image(reader, path, row_group)
                found |= {hit.rank: _cut(image, hit) for hit in here}
    return found


def _same(hit: Hit, key: Key) -> bool:
    return hit.grid_cell == key[0] and (not hit.product_id or not key[1] or hit.product_id == key[1])


def _rows(path: Place) -> list[tuple[int, Key]]:
    """Row groups of a shard with the cell and product of each."""
    try:
        with open_shard(path) as file:
            names = file.schema_arrow.names
            table = file.read([name for name in ("grid_cell", "product_id") if name in names])
            cells = list(as_texts(table["grid_cell"]))
            products = list(as_texts(table["product_id"])) if "product_id" in names else [""] * len(cells)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (ShardError, KeyError, *UNREADABLE) as error:
        raise UsageError(f"{path} cannot be read as a shard ({error}): name shards of Major TOM Core") from error
    groups = [group for group, count in enumerate(counts) for _ in range(count)]
    return [(group, (cell or "", product or "")) for group, cell, product in zip(groups, cells, products, strict=True)]


def cell_images(shards: Iterable[str], cells: Collection[str]) -> dict[str, Image]:
    """Pictures of whole cells by name, float32 [rows, cols, 3] in 0..1, of those that the shards have.

    Raises UsageError for a shard that cannot be read or drawn.
    """
    found: dict[str, Image] = {}
    reader = ShardReader()
    for path in find_shards(tuple(shards)):
        for row_group, (cell, _) in _rows(path):
            if cell in cells and cell not in found:
                found[cell] = _image(reader, path, row_group)
    return found


def _image(reader: ShardReader, path: Place, row_group: int) -> Image:
    with open_shard(path) as file:
        source = source_of(file.schema_arrow.names)
    if source is None:
        raise UsageError(f"{path} has no band: name shards of Major TOM Core")
    names = SOURCES[source].picture
    try:
        table = reader.row(path, row_group, names)
        bands = [_pixels(blob_of(table, name)) for name in names]
    except CellError as error:
        raise UsageError(f"{path.name}, row group {row_group}: {error}: the picture cannot be drawn") from error
    if SOURCES[source].radar:
        vv, vh = (10 * np.log10(np.maximum(band, 1e-5)) for band in bands)
        return np.stack([stretched(band) for band in (vv, vh, vv - vh)], axis=-1)
    return stretched(np.stack(bands, axis=-1))


def _pixels(blob: Any) -> npt.NDArray[np.float32]:
    info = tiff.parse(blob)
    pixels = np.empty((info.rows, info.cols), info.dtype)
    tiff.decode_into(blob, info, pixels)
    return pixels.astype(np.float32)


def _cut(image: Image, hit: Hit) -> Image:
    """The hit's part of its cell; the whole cell where the dataset does not say."""
    if hit.pixel_bbox is None:
        return image
    left, top, right, bottom = hit.pixel_bbox
    return image[max(0, top) : bottom, max(0, left) : right]
