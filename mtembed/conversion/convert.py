"""``mtembed convert``: a dataset with its vectors in another form; everything else of it stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import __version__
from mtembed.conversion.losses import losses
from mtembed.conversion.target import Reduction, Target, fitted
from mtembed.dataset.array import HEADER, METADATA, VALUES
from mtembed.dataset.atomic import as_text, read_json, write_atomically
from mtembed.dataset.files import RECORDS, VECTORS, other_keys, schema_of
from mtembed.dataset.finding import Name
from mtembed.dataset.form import KEY, SCALES, DoesNotFitError, Form
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.dataset.rows import writer_options
from mtembed.errors import OutputError
from mtembed.types import Tick

RECORD = RECORDS[0]
STATE = "written.json"
PLAIN = {"float32": pa.float32(), "float16": pa.float16()}
MADE_WITH = ("settings", "weights", "model")  # of a manifest: what made the vectors


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """A converted dataset: its folder, ``form`` as it was asked for, ``rows``; bytes of its files before and after;
    what it lost, measured on ``sampled`` rows (see ``losses.Losses``)."""

    output: Path
    form: str
    rows: int
    dim: int
    bytes_before: int
    bytes_after: int
    recall_at_10: float
    mean_cosine: float
    max_abs_error: float
    sampled: int
    nothing_to_do: bool


def convert(
    dataset: Name | Sequence[Name],
    output: Name,
    *,
    to: str,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> ConvertResult:
    """Write a dataset of embeddings with its vectors in another form.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, or several of these that are one dataset.
    output
        Folder of the result: files of the same names, or the three files of a raw array.
    to
        ``float32``, ``float16``, ``bfloat16``, ``int8`` (a scale for each row), ``uint8`` (scale and offset for each
        dimension), ``bits`` (signs), ``pca:K``, or ``array[:FORM]`` for metadata and a raw array of bytes.
    fresh
        Start over instead of resuming.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what is not possible, OutputError for a value that does not fit and for files that cannot be
    read or written, SettingsError where something else lies in the output folder.
    """
    target = Target.of(to)
    opened = open_dataset(dataset, tick=tick)
    names = (VALUES, METADATA) if target.array else file_names(opened)
    record = HEADER if target.array else RECORD
    folder = ResultFolder(Path(output), record, names, {"to": to}, opened.sources())
    with folder.held(fresh) as held:
        nothing_to_do = held.finished
        if not nothing_to_do:
            reduction = fitted(opened, target, held.work, tick)
            (_write_array if target.array else _write_files)(opened, reduction, held, names, tick)
            held.record(_facts(opened, reduction, to, sum((held.root / name).stat().st_size for name in names)))
        content = held.content()
    found = {name: content[name] for name in ConvertResult.__dataclass_fields__ if name in content and name != "form"}
    return ConvertResult(output=Path(output), form=to, nothing_to_do=nothing_to_do, **found)


def file_names(opened: EmbeddingDataset) -> tuple[str, ...]:
    """A name in one folder for each file: its own, with its folders' where that is needed to tell files apart."""
    if len(opened.files) == 1 and opened.files[0].array is not None:
        return ("part_00001.parquet",)  # what its file was called before is not known
    last = [Path(file.name).with_suffix(".parquet").name for file in opened.files]
    if len(set(last)) == len(last):
        return tuple(last)
    return tuple(file.name.replace("/", "-") for file in opened.files)


def made_with(opened: EmbeddingDataset) -> dict[str, Any] | None:
    """What made the vectors, as far as it is known: from here on the manifest is elsewhere."""
    return None if opened.manifest is None else {name: opened.manifest.get(name) for name in MADE_WITH}


def _facts(opened: EmbeddingDataset, reduction: Reduction, to: str, after: int) -> Mapping[str, Any]:
    lost = losses(opened, reduction)
    basis = reduction.basis
    return {
        "to": to,
        "form": reduction.form.as_json(),
        "scale": None if reduction.form.scale is None else reduction.form.scale.tolist(),
        "offset": None if reduction.form.offset is None else reduction.form.offset.tolist(),
        "dtype": reduction.form.dtype.str,
        "shape": [opened.rows, reduction.form.width],
        "rows": opened.rows,
        "dim": reduction.form.dim,
        "bytes_before": sum(file.mark.size + _array_bytes(file) for file in opened.files),
        "bytes_after": after,
        **{name: value for name, value in asdict(lost).items() if name != "rows"},
        "sampled": lost.rows,
        "pca": None if basis is None else {"mean": basis.mean.tolist(), "components": basis.components.tolist()},
        "model": opened.model,
        "made_with": made_with(opened),
        "mtembed": __version__,
    }


def _array_bytes(file: Any) -> int:
    return 0 if file.array is None else file.array.bytes


def _encoded(opened: EmbeddingDataset, number: int, first: int, reduction: Reduction, vectors: Any) -> Any:
    try:
        return reduction.form.encode(reduction.projected(vectors))
    except DoesNotFitError as error:
        raise OutputError(
            f"{opened.files[number].name}, row {first + error.row}: {error}: convert to another form, "
            "or leave the row out"
        ) from error


def _write_files(
    opened: EmbeddingDataset, reduction: Reduction, folder: ResultFolder, names: Sequence[str], tick: Tick
) -> None:
    done = 0
    for number, name in enumerate(names):
        if not (folder.root / name).exists():
            _write_file(opened, number, reduction, folder.work / name, tick, done)
            folder.publish(folder.work / name)
        done += opened.files[number].rows
        tick("writing", done, opened.rows)


def _write_file(opened: EmbeddingDataset, number: int, reduction: Reduction, path: Path, tick: Tick, done: int) -> None:
    writer: pq.ParquetWriter | None = None
    first, groups = 0, max(opened.files[number].row_groups, default=1)
    for beside, vectors in opened.whole(number, groups):
        values, scales = _encoded(opened, number, first, reduction, vectors)
        table = _with_vectors(opened, number, beside, values, scales, reduction.form)
        if writer is None:
            plain = reduction.form.name in ("float32", "float16")
            options = writer_options("float32" if reduction.form.name == "float32" else "float16")
            kept = {name: value for name, value in options.items() if plain or name != "use_byte_stream_split"}
            writer = pq.ParquetWriter(path, table.schema, **kept)
        writer.write_table(table)
        first += len(vectors)
        tick("writing", done + first, opened.rows)
    if writer is None:
        empty = pa.table({VECTORS: pa.array([], pa.list_(pa.float32(), reduction.form.dim))})
        pq.write_table(empty, path)
    else:
        writer.close()


def _with_vectors(
    opened: EmbeddingDataset, number: int, beside: pa.RecordBatch, values: Any, scales: Any, form: Form
) -> pa.Table:
    """The columns of a batch with the stored vectors where the vectors were, and the footer's other keys."""
    kind = PLAIN.get(form.name, pa.from_numpy_dtype(form.dtype))
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1), kind), form.width)
    schema = schema_of(opened.files[number].path)
    place = schema.get_field_index(VECTORS)
    columns = dict(zip(beside.schema.names, beside.columns, strict=True))
    names = list(columns)
    names.insert(place if place >= 0 else len(names), VECTORS)
    columns[VECTORS] = column
    if scales is not None:
        names.append(SCALES)
        columns[SCALES] = pa.array(scales)
    kept = {key: value for key, value in other_keys(opened.files[number].path).items() if key != KEY}
    form_key = {} if form.name in PLAIN else {KEY: json.dumps(form.as_json()).encode()}
    return pa.table({name: columns[name] for name in names}).replace_schema_metadata({**kept, **form_key})


def _write_array(
    opened: EmbeddingDataset, reduction: Reduction, folder: ResultFolder, names: Sequence[str], tick: Tick
) -> None:
    """Values file by file into their place; the metadata, which are little, in one go with the last of them."""
    form, state = reduction.form, folder.work / STATE
    for name in names:
        if (folder.root / name).exists():
            (folder.root / name).replace(folder.work / name)
    written = int(read_json(state)["files"]) if state.exists() and (folder.work / VALUES).exists() else 0
    shape = (opened.rows, form.width)
    values = np.memmap(folder.work / VALUES, form.dtype, "r+" if written else "w+", shape=shape)
    first, scales = 0, []
    with _MetadataWriter(folder.work / METADATA) as metadata:
        for number, file in enumerate(opened.files):
            for beside, vectors in opened.whole(number):
                if number >= written or form.columns:
                    stored, some = _encoded(opened, number, first, reduction, vectors)
                    values[first : first + len(vectors)] = stored
                    scales = [] if some is None else [some]
                metadata.write(opened, number, beside, scales)
                first += len(vectors)
                tick("writing", first, opened.rows)
            if file.rows:
                values.flush()
                write_atomically(state, as_text({"files": number + 1}))
    del values
    for name in names:
        folder.publish(folder.work / name)


class _MetadataWriter:
    """All columns but the vectors, of all files, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _MetadataWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, opened: EmbeddingDataset, number: int, beside: pa.RecordBatch, scales: Sequence[Any]) -> None:
        table = pa.Table.from_batches([beside])
        if scales:
            table = table.append_column(SCALES, pa.array(scales[0]))
        if self._writer is None:
            kept = other_keys(opened.files[number].path)
            geo = {key: value for key, value in kept.items() if key == b"geo"}
            self._writer = pq.ParquetWriter(
                self._path, table.schema.with_metadata(geo or None), compression="zstd", write_page_checksum=True
            )
        same = table.select(self._writer.schema.names).cast(self._writer.schema)
        self._writer.write_table(same)
