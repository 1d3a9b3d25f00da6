"""One way to read a dataset of embeddings, ours or a published one, row group by row group.

    dataset = open_dataset("embeddings-dinov2")            # a run's folder, a folder or glob of files, one file
    for batch in dataset.batches(columns=("grid_cell", "geometry")):
        batch.vectors                                      # float32 [n, D]
        batch.table["grid_cell"]

Lists may be of fixed size or not, values of 16, 32 or 64 bits, columns in any order; columns that are not known here
are kept.  Memory holds about a batch, whatever the size of files and row groups.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.shards import fingerprint
from mtembed.dataset import columns as forms
from mtembed.dataset.folder import read_json
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Fingerprint, FloatArray

Name = str | Path
VECTORS = "embedding"
BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20  # of float32 vectors: a batch has fewer rows where they would take more
BUFFER_BYTES = 4 << 20  # read at a time from a column chunk


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One file: ``name`` is its path below the folder all files share, ``mark`` its size, time, rows, footer hash."""

    path: Path
    name: str
    row_groups: tuple[int, ...]
    dtype: str
    mark: Fingerprint

    @property
    def rows(self) -> int:
        return self.mark.rows

    def source(self) -> dict[str, Any]:
        """What identifies the file in a result made from it; the same on every machine."""
        return {
            "file": self.name,
            "rows": self.rows,
            "bytes": self.mark.size,
            "footer_sha256": self.mark.footer_sha256,
        }


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingBatch:
    """Rows ``first_row`` and after of file number ``file``: ``vectors`` float32 [n, D], or None if not asked for.

    ``table`` has the other columns that were asked for.  ``vectors`` may be Arrow's own memory: it is read-only.
    """

    file: int
    first_row: int
    rows: int
    vectors: FloatArray | None
    table: pa.Table


@dataclass(frozen=True, slots=True)
class EmbeddingDataset:
    """Files of embeddings that belong together.

    Attributes
    ----------
    name
        What a person calls it: the last part of what was opened.
    files
        In the order of their names; those without rows are among them.
    dim, dtype
        Values of a vector, and the type they are stored as (``float16``, ``float32``, ``float64``; the widest one).
    columns
        Names of the columns that every file has, without the vectors.
    model
        From the manifests; None where one is missing or there are none.
    root, manifest
        The output folder of the run that made all files, and its manifest; else None.
    """

    name: str
    files: tuple[EmbeddingFile, ...]
    dim: int
    dtype: str
    columns: tuple[str, ...]
    model: str | None
    root: Path | None
    manifest: Mapping[str, Any] | None

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def sources(self) -> list[dict[str, Any]]:
        """What identifies the input of a result, file by file."""
        return [file.source() for file in self.files]

    def require(self, columns: Sequence[str], what: str) -> None:
        """Raises UsageError where ``what`` needs a column that is not there."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise UsageError(
                f"{self.name} has no column {', '.join(missing)}, which {what} needs: "
                f"its columns are {', '.join((VECTORS, *self.columns))}"
            )

    def batches(
        self,
        columns: Sequence[str] = (),
        rows: int = BATCH_ROWS,
        files: Sequence[int] | None = None,
        *,
        vectors: bool = True,
    ) -> Iterator[EmbeddingBatch]:
        """Every row, file after file (``files``: numbers of the wanted ones), in batches of at most ``rows`` rows.

        Only the named ``columns`` are read, and the embeddings unless ``vectors`` is false.  Page checksums are
        checked.  Raises UsageError for a column that is not there, OutputError for a file that cannot be read.
        """
        self.require(columns, "reading it")
        for number in range(len(self.files)) if files is None else files:
            first = 0
            for read in self._read(number, columns, rows, vectors, None):
                yield self._batch(number, first, read, columns, vectors)
                first += read.num_rows

    def take(
        self, file: int, rows: npt.ArrayLike, columns: Sequence[str] = (), *, vectors: bool = True
    ) -> tuple[FloatArray | None, pa.Table]:
        """Rows of one file by their numbers, in the order asked for: vectors float32 [n, D] (or None) and a table.

        Reads the row groups that hold them, batch by batch.  Raises UsageError for a row or column that is not there.
        """
        self.require(columns, "reading it")
        wanted = np.asarray(rows, np.int64).reshape(-1)
        source = self.files[file]
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < source.rows:
            raise UsageError(f"{source.name} has {source.rows} rows: row {wanted.max()} is not among them")
        ends = np.cumsum((0, *source.row_groups))
        distinct, back = np.unique(wanted, return_inverse=True)
        group_of = np.searchsorted(ends, distinct, side="right") - 1
        nothing = self._nothing(file, columns, vectors)
        pieces = [self._batch(file, 0, nothing, columns, vectors)] if not len(wanted) else []
        for group in np.unique(group_of):
            inside, first = distinct[group_of == group] - ends[group], 0
            for read in self._read(file, columns, BATCH_ROWS, vectors, [int(group)]):
                here = inside[(inside >= first) & (inside < first + read.num_rows)] - first
                first += read.num_rows
                if len(here):
                    pieces.append(self._batch(file, 0, read.take(pa.array(here)), columns, vectors))
        table = pa.concat_tables([piece.table for piece in pieces]).take(pa.array(back))
        if not vectors:
            return None, table
        return np.concatenate([piece.vectors for piece in pieces if piece.vectors is not None])[back], table

    def _nothing(self, file: int, columns: Sequence[str], vectors: bool) -> pa.RecordBatch:
        names = [*columns, *([VECTORS] if vectors else [])]
        schema = pq.read_schema(self.files[file].path)
        return pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in names]))

    def _read(
        self, number: int, columns: Sequence[str], rows: int, vectors: bool, groups: list[int] | None
    ) -> Iterator[pa.RecordBatch]:
        source = self.files[number]
        names = [*columns, *([VECTORS] if vectors else [])]
        at_once = max(1, min(rows, BATCH_BYTES // (4 * self.dim))) if vectors else rows
        try:
            with _open(source.path) as file:
                if file.metadata.num_rows != source.rows:
                    raise OutputError(f"{source.path} changed while it was read: run the same command again")
                yield from file.iter_batches(at_once, row_groups=groups, columns=names)
        except UNREADABLE as error:
            raise OutputError(damaged(source.path, error)) from error

    def _batch(
        self, number: int, first: int, read: pa.RecordBatch, columns: Sequence[str], vectors: bool
    ) -> EmbeddingBatch:
        try:
            found = forms.vectors(read.column(VECTORS), self.dim) if vectors else None
            arrays = [forms.plain(name, read.column(name)) for name in columns]
        except UNREADABLE as error:
            raise OutputError(damaged(self.files[number].path, error)) from error
        table = pa.Table.from_arrays(arrays, names=list(columns))
        return EmbeddingBatch(number, first, read.num_rows, found, table)


def open_dataset(name: Name | Sequence[Name]) -> EmbeddingDataset:
    """Find the files of a dataset and read their footers: a run's folder, a folder or glob of files, files.

    Several names are one dataset.  Raises UsageError where nothing matches, a file has no embeddings, there are no
    rows, or dimensions or models differ; OutputError for a file that cannot be read.
    """
    names = [name] if isinstance(name, str | Path) else list(name)
    paths = list(dict.fromkeys(path.absolute() for one in names for path in find_files(one)))
    opened = [_Opened.of(path) for path in paths]
    title = Path(names[0]).absolute().name if len(names) == 1 else f"{Path(names[0]).absolute().name} and others"
    filled = [one for one in opened if one.dim is not None and one.mark.rows]
    if not filled:
        raise UsageError(f"{title} has no rows: name a dataset with embeddings in it")
    _require_same(filled, "dim", "{} has vectors of {} values and {} of {}")
    makers = {path: _Maker.of(path) for path in paths}
    model, root, manifest = _common(makers)
    shared = _shared_folder(paths)
    return EmbeddingDataset(
        name=title,
        files=tuple(
            EmbeddingFile(one.path, one.path.relative_to(shared).as_posix(), one.row_groups, one.dtype, one.mark)
            for one in opened
        ),
        dim=int(filled[0].dim or 0),
        dtype=np.result_type(*(one.dtype for one in filled)).name,
        columns=tuple(column for column in filled[0].columns if all(column in one.columns for one in filled)),
        model=model,
        root=root,
        manifest=manifest,
    )


def find_files(name: Name) -> list[Path]:
    """Paths of the files that a name stands for, sorted.  Raises UsageError where there are none."""
    if "://" in str(name) or str(name).startswith("hf:"):
        raise UsageError(f"{name} is a URL, and embeddings are read from local files: download it and name the folder")
    path = Path(name)
    if path.is_dir():
        folder = path / "embeddings" if (path / "embeddings").is_dir() else path
        found = [p for p in folder.glob("*.parquet") if p.name != "metadata.parquet" and not p.name.startswith(".")]
        if not found:
            inside = sorted(p.parent.name for p in path.glob("*/embeddings"))
            advice = f"name one of {', '.join(inside[:5])} in it" if inside else "name a folder of embedding files"
            raise UsageError(f"{name} is a folder without embeddings: {advice}")
    elif path.exists():
        found = [path]
    else:
        found = [p for p in map(Path, glob.glob(str(name), recursive=True)) if p.is_file()]  # noqa: PTH207
        if not found:
            raise UsageError(f"no file of embeddings matches {name}: name a dataset's folder, files or a glob")
    return sorted(found)


def damaged(path: Path, error: BaseException) -> str:
    """The sentence for a file of embeddings that cannot be read."""
    return f"{path} cannot be read ({first_line(error).rstrip('.')}): copy it again, or make it again"


def _open(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a footer says; ``dim`` is None for lists of unknown length (a file without rows)."""

    path: Path
    row_groups: tuple[int, ...]
    columns: tuple[str, ...]
    dtype: str
    dim: int | None
    mark: Fingerprint

    @classmethod
    def of(cls, path: Path) -> _Opened:
        """Raises UsageError where there are no vectors, OutputError where the file cannot be read."""
        try:
            with _open(path) as file:
                arrow, footer = file.schema_arrow, file.metadata
                if VECTORS not in arrow.names:
                    raise UsageError(f"{path} has no column {VECTORS}: name files of embeddings")
                kind = arrow.field(VECTORS).type
                found = forms.vector_type(kind)
                if found is None:
                    raise UsageError(
                        f"the column {VECTORS} of {path} is {kind}, which is no list of 16 to 64 bit floats"
                    )
                dtype, dim = found
                if dim is None:
                    dim = _measured(file)
                groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
                return cls(
                    path=path,
                    row_groups=groups,
                    columns=tuple(name for name in arrow.names if name != VECTORS),
                    dtype=dtype,
                    dim=dim,
                    mark=fingerprint(path, footer.num_rows),
                )
        except UNREADABLE as error:
            raise OutputError(damaged(path, error)) from error


def _measured(file: pq.ParquetFile) -> int | None:
    """The length of the first vector of a file of lists; None where all are null."""
    for batch in file.iter_batches(64, columns=[VECTORS]):
        found = forms.lengths(batch.column(0))
        if (found >= 0).any():
            return int(found[found >= 0][0])
    return None


def _require_same(opened: Sequence[_Opened], attribute: str, sentence: str) -> None:
    first = opened[0]
    for other in opened[1:]:
        one, two = getattr(first, attribute), getattr(other, attribute)
        if one != two:
            text = sentence.format(first.path, one, other.path, two)
            raise UsageError(f"{text}: these are two datasets, name one of them")


@dataclass(frozen=True, slots=True)
class _Maker:
    """What a manifest says of the model; ``weights`` tells two sets of weights of one model apart."""

    root: Path
    model: str
    weights: str
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> _Maker | None:
        root = path.parent.parent if path.parent.name == "embeddings" else path.parent
        found = min(root.glob("manifest*.json"), default=None)
        if found is None:
            return None
        try:
            content = read_json(found)
        except OutputError as error:
            raise OutputError(f"{found} is no JSON object: restore it, or move it away") from error
        settings, weights = content.get("settings"), content.get("weights")
        if not (isinstance(settings, Mapping) and isinstance(settings.get("model"), str)):
            return None  # another program's
        mark = weights.get("sha256") or weights.get("file") if isinstance(weights, Mapping) else None
        return cls(root, settings["model"], str(mark or settings.get("weights")), content)


def _common(makers: Mapping[Path, _Maker | None]) -> tuple[str | None, Path | None, Mapping[str, Any] | None]:
    """Model, root and manifest that all files have in common.  Raises UsageError for two models."""
    known = [(path, maker) for path, maker in makers.items() if maker is not None]
    for path, maker in known[1:]:
        first_path, first = known[0]
        for what, one, two in (("model", first.model, maker.model), ("weights", first.weights, maker.weights)):
            if one != two:
                raise UsageError(
                    f"{first_path} was made with {what} {one} and {path} with {two}: "
                    "these are two datasets, name one of them"
                )
    if not known or len(known) < len(makers):
        return None, None, None
    maker = known[0][1]
    alone = len({other.root for _, other in known}) == 1
    return maker.model, maker.root if alone else None, maker.manifest if alone else None


def _shared_folder(paths: Sequence[Path]) -> Path:
    shared = paths[0].parent
    while not all(path.is_relative_to(shared) for path in paths):
        shared = shared.parent
    return shared
