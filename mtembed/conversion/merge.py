"""``mtembed merge``: many files into few, in the order of the grid or of a Hilbert curve, as published sets are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import __version__
from mtembed.conversion import runs as order_of
from mtembed.conversion.convert import made_with
from mtembed.conversion.runs import Run, repeated, runs_of
from mtembed.dataset.files import RECORDS, VECTORS, other_keys, schema_of
from mtembed.dataset.finding import Name
from mtembed.dataset.form import KEY
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.dataset.rows import geo_metadata, writer_options
from mtembed.errors import UsageError
from mtembed.types import Tick

RECORD = RECORDS[1]
SHARDS_PER_FILE = 50  # as in the published sets (Major-TOM/Core-S2L1C-SSL4EO)
GROUP_ROWS, GROUP_BYTES = 10_000, 32 << 20
BOX = ("xmin", "ymin", "xmax", "ymax")
Order = Literal["grid", "hilbert"]


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged dataset: folder, ``files``, ``rows``; ``repeated_cells`` are there more than once, ``dropped`` rows were
    left out for that; ``bytes`` of the files."""

    output: Path
    order: str
    files: tuple[str, ...]
    rows: int
    repeated_cells: int
    dropped: int
    bytes: int
    nothing_to_do: bool


def merge(
    dataset: Name | Sequence[Name],
    output: Name,
    *,
    order: Order = "grid",
    shards_per_file: int = SHARDS_PER_FILE,
    drop_duplicates: bool = False,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> MergeResult:
    """Merge the files of a dataset into few large ones, named as those of the published sets.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, or several of these that are one dataset.
    output
        Folder of the result; its files lie in ``embeddings``.
    order
        Of the rows in each file: ``grid`` (south to north, west to east) or ``hilbert`` (near on the ground, near in
        the file).  The fragments of an image stay together in their order.
    shards_per_file
        How many files of the dataset become one.
    drop_duplicates
        Keep of each cell the newest image only.
    fresh
        Start over instead of resuming.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what is not possible, OutputError for files that cannot be read or written, SettingsError
    where something else lies in the output folder.
    """
    if shards_per_file < 1:
        raise UsageError(f"--shards-per-file {shards_per_file} is not possible: choose 1 or more")
    opened = open_dataset(dataset, tick=tick)
    _require_mergeable(opened)
    groups = [
        list(range(first, min(first + shards_per_file, len(opened.files))))
        for first in range(0, len(opened.files), shards_per_file)
    ]
    names = tuple(f"embeddings/{_name(opened, group)}.parquet" for group in groups)
    if len(set(names)) < len(names):
        raise UsageError("files of different folders have the same names: merge each folder by itself")
    settings = {"order": order, "shards-per-file": shards_per_file, "drop-duplicates": drop_duplicates}
    folder = ResultFolder(Path(output), RECORD, names, settings, opened.sources())
    with folder.held(fresh) as held:
        nothing_to_do = held.finished
        if not nothing_to_do:
            runs = runs_of(opened, tick)
            cells, kept = repeated(runs)
            chosen = kept if drop_duplicates else runs
            (held.root / "embeddings").mkdir(exist_ok=True)
            _write(opened, groups, names, chosen, order, held, tick)
            held.record(_facts(opened, names, held.root, runs, chosen, cells))
        content = held.content()
    return MergeResult(
        output=Path(output),
        order=order,
        files=tuple(content["files"]),
        rows=content["rows"],
        repeated_cells=content["repeated_cells"],
        dropped=content["dropped"],
        bytes=content["bytes"],
        nothing_to_do=nothing_to_do,
    )


def _require_mergeable(opened: EmbeddingDataset) -> None:
    """Raises UsageError for files that cannot be one."""
    opened.require(["grid_cell"], "an order of cells")
    if any(file.array is not None for file in opened.files):
        raise UsageError(f"{opened.name} is a raw array, which is one file already: convert it to float32 first")
    forms = {file.form.name if file.form else file.dtype for file in opened.files}
    if len(forms) > 1 or any(file.form is not None and file.form.scale is not None for file in opened.files):
        raise UsageError(
            f"the files of {opened.name} have forms of their own ({', '.join(sorted(forms))}): convert after merging"
        )


def _name(opened: EmbeddingDataset, group: Sequence[int]) -> str:
    """``part_00001-00050`` for the files from ``part_00001`` to ``part_00050``."""
    first, last = (Path(opened.files[number].name).stem for number in (group[0], group[-1]))
    if first == last:
        return first
    stem, _, number = last.rpartition("_")
    return f"{first}-{number if stem and first.startswith(stem + '_') else last}"


def _facts(
    opened: EmbeddingDataset, names: Sequence[str], root: Path, runs: list[Run], kept: list[Run], cells: int
) -> dict[str, Any]:
    rows = sum(run.count for run in kept)
    return {
        "files": list(names),
        "rows": rows,
        "repeated_cells": cells,
        "dropped": sum(run.count for run in runs) - rows,
        "bytes": sum((root / name).stat().st_size for name in names),
        "dim": opened.dim,
        "model": opened.model,
        "made_with": made_with(opened),
        "mtembed": __version__,
    }


def _write(
    opened: EmbeddingDataset,
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    runs: list[Run],
    order: Order,
    folder: ResultFolder,
    tick: Tick,
) -> None:
    """File by file; one that an earlier start published is there already."""
    total, done = sum(run.count for run in runs), 0
    for group, name in zip(groups, names, strict=True):
        here = [run for run in runs if run.file in set(group)]
        if not (folder.root / name).exists():
            here = order_of.in_hilbert_order(here) if order == "hilbert" else order_of.in_grid_order(here)
            scratch = folder.work / Path(name).name
            _write_file(opened, group, here, folder.work, scratch)
            folder.publish(scratch, name)
        done += sum(run.count for run in here)
        tick("merging", done, total)


def _write_file(opened: EmbeddingDataset, group: Sequence[int], runs: list[Run], work: Path, path: Path) -> None:
    """The rows of a few files in another order: unpacked to disk first, so that none is unpacked twice and memory holds
    a row group."""
    unpacked, schema = _unpacked(opened, group, work)
    firsts = dict(zip(group, np.cumsum([0, *(opened.files[number].rows for number in group)]).tolist(), strict=False))
    half = opened.dtype == "float16"
    options = writer_options("float16" if half else "float32")
    if any(opened.files[number].form is not None for number in group) or opened.dtype == "float64":
        options.pop("use_byte_stream_split")
    types: set[str] = set()
    bounds: list[tuple[float, ...]] = []
    if "geometry" in schema.names:  # for readers of the whole folder, as in dataset.rows
        schema = schema.with_metadata({**(schema.metadata or {}), "geo": _geo(schema, types, bounds)})
    with pa.memory_map(str(unpacked)) as source, pq.ParquetWriter(path, schema, **options) as writer:
        whole = pa.ipc.open_file(source).read_all()
        for together in _row_groups(runs, max(1, min(GROUP_ROWS, GROUP_BYTES // (opened.dim * (2 if half else 4))))):
            table = pa.concat_tables([whole.slice(firsts[run.file] + run.first, run.count) for run in together])
            writer.write_table(table, row_group_size=len(table))
            _look(table, types, bounds)
        if "geometry" in schema.names:
            writer.add_key_value_metadata({"geo": _geo(schema, types, bounds)})
    unpacked.unlink()


def _row_groups(runs: list[Run], most: int) -> Iterator[list[Run]]:
    """Runs that are written together: whole ones, about so many rows."""
    together: list[Run] = []
    rows = 0
    for run in runs:
        if together and rows + run.count > most:
            yield together
            together, rows = [], 0
        together.append(run)
        rows += run.count
    if together:
        yield together


def _unpacked(opened: EmbeddingDataset, group: Sequence[int], work: Path) -> tuple[Path, pa.Schema]:
    """All rows of some files, uncompressed, in a file of Arrow's; and the columns they have."""
    path = work / "unpacked.arrow"
    first = schema_of(opened.files[group[0]].path)
    names = [name for name in first.names if name in (VECTORS, *opened.columns)]
    kept = {key: value for key, value in other_keys(opened.files[group[0]].path).items() if key == KEY}
    schema = pa.schema([first.field(name).remove_metadata() for name in names], kept or None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for number in group:
            for batch in opened.stored(number, names):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    return path, schema


def _look(table: pa.Table, types: set[str], bounds: list[tuple[float, ...]]) -> None:
    """What GeoParquet's metadata say of a file: kinds of geometries, and their box."""
    if "geometry" not in table.column_names:
        return
    import shapely

    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    names = {3: "Polygon", 6: "MultiPolygon", 0: "Point", 1: "LineString", 4: "MultiPoint", 5: "MultiLineString"}
    types |= {
        names.get(kind, "GeometryCollection") for kind in np.unique(shapely.get_type_id(shapes)).tolist() if kind >= 0
    }
    box = shapely.total_bounds(shapes)
    if np.isfinite(box).all():
        bounds.append(tuple(box.tolist()))


def _geo(schema: pa.Schema, types: set[str], bounds: list[tuple[float, ...]]) -> bytes:
    """``bbox`` is named as the covering where the file has it."""
    import json

    box = None
    if bounds:
        corners = np.array(bounds)
        box = (*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())
    geo = json.loads(geo_metadata(box, tuple(types)))
    if "bbox" not in schema.names:
        geo["columns"]["geometry"].pop("covering")
    return json.dumps(geo).encode()
