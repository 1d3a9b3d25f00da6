"""The files of a dataset of embeddings: which a name stands for, what their footers say, and who made them."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtembed.archive.shards import fingerprint
from mtembed.dataset import columns as forms
from mtembed.dataset.array import HEADER, METADATA, RawArray
from mtembed.dataset.atomic import read_json
from mtembed.dataset.form import Form
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Fingerprint

Name = str | Path
VECTORS = "embedding"
RECORDS = ("convert.json", "merge.json")  # of datasets that were made from another one
BUFFER_BYTES = 4 << 20  # read at a time from a column chunk


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One file: ``name`` is its path below the folder all files share, ``mark`` its size, time, rows, footer hash.

    ``form`` is how vectors are stored that are not lists of floats; of an ``array``, ``path`` is its metadata.
    """

    path: Path
    name: str
    row_groups: tuple[int, ...]
    dtype: str
    mark: Fingerprint
    form: Form | None = None
    array: RawArray | None = None

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


def find_files(name: Name) -> list[Path]:
    """Paths of the files that a name stands for, sorted.  Raises UsageError where there are none."""
    if "://" in str(name) or str(name).startswith("hf:"):
        raise UsageError(f"{name} is a URL, and embeddings are read from local files: download it and name the folder")
    path = Path(name)
    if path.is_dir() and (path / HEADER).is_file():
        found = [path / HEADER]
    elif path.is_dir():
        folder = path / "embeddings" if (path / "embeddings").is_dir() else path
        found = [p for p in folder.glob("*.parquet") if p.name != "metadata.parquet" and not p.name.startswith(".")]
        if not found:
            inside = sorted(p.parent.name for p in path.glob("*/embeddings"))
            advice = f"name one of {', '.join(inside[:5])} in it" if inside else "name a folder of embedding files"
            raise UsageError(f"{name} is a folder without embeddings: {advice}")
    elif path.exists():
        of_array = path.name == METADATA and path.with_name(HEADER).is_file()
        found = [path.with_name(HEADER) if of_array else path]
    else:
        found = [p for p in map(Path, glob.glob(str(name), recursive=True)) if p.is_file()]  # noqa: PTH207
        if not found:
            raise UsageError(f"no file of embeddings matches {name}: name a dataset's folder, files or a glob")
    return sorted(found)


def damaged(path: Path, error: BaseException) -> str:
    """The sentence for a file of embeddings that cannot be read."""
    return f"{path} cannot be read ({first_line(error).rstrip('.')}): copy it again, or make it again"


def open_file(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer says; ``dim`` is None for lists of unknown length (a file without rows)."""

    path: Path
    row_groups: tuple[int, ...]
    columns: tuple[str, ...]
    dtype: str
    dim: int | None
    mark: Fingerprint
    form: Form | None = None
    array: RawArray | None = None
    maps: bool = False

    @classmethod
    def of(cls, path: Path) -> Footer:
        """Raises UsageError where there are no vectors, OutputError where the file cannot be read."""
        if path.name == HEADER:
            return cls._of_array(RawArray.open(path))
        try:
            with open_file(path) as file:
                arrow, footer = file.schema_arrow, file.metadata
                form = Form.of_footer(footer.metadata)
                if VECTORS not in arrow.names:
                    raise UsageError(f"{path} has no column {VECTORS}: name files of embeddings")
                dtype, dim = _vectors_of(path, file) if form is None else ("float32", form.dim)
                return cls(
                    path=path,
                    row_groups=_row_groups(file),
                    columns=tuple(name for name in arrow.names if name != VECTORS),
                    dtype=dtype,
                    dim=dim,
                    mark=fingerprint(path, footer.num_rows),
                    form=form,
                    maps=forms.SHAPE_KEY.encode() in (arrow.field(VECTORS).metadata or {}),
                )
        except UNREADABLE as error:
            raise OutputError(damaged(path, error)) from error

    @classmethod
    def _of_array(cls, array: RawArray) -> Footer:
        path = array.metadata
        try:
            with open_file(path) as file:
                if file.metadata.num_rows != array.rows:
                    raise OutputError(f"{path} has {file.metadata.num_rows} rows and {array.values} {array.rows}")
                return cls(
                    path=path,
                    row_groups=_row_groups(file),
                    columns=tuple(file.schema_arrow.names),
                    dtype="float32",
                    dim=array.form.dim,
                    mark=fingerprint(path, array.rows),
                    form=array.form,
                    array=array,
                )
        except UNREADABLE as error:
            raise OutputError(damaged(path, error)) from error


def other_keys(path: Path) -> dict[bytes, bytes]:
    """Keys of a file's footer, ``geo`` among them, without what Arrow keeps there for itself."""
    return {key: value for key, value in (pq.read_metadata(path).metadata or {}).items() if key != b"ARROW:schema"}


def _vectors_of(path: Path, file: pq.ParquetFile) -> tuple[str, int | None]:
    """The type and length of a file's vectors.  Raises UsageError where they are none."""
    kind = file.schema_arrow.field(VECTORS).type
    found = forms.vector_type(kind)
    if found is None:
        raise UsageError(f"the column {VECTORS} of {path} is {kind}, which is no list of 16 to 64 bit floats")
    dtype, dim = found
    return dtype, _measured(file) if dim is None else dim


def _row_groups(file: pq.ParquetFile) -> tuple[int, ...]:
    return tuple(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))


def _measured(file: pq.ParquetFile) -> int | None:
    """The length of the first vector of a file of lists; None where all are null."""
    for batch in file.iter_batches(64, columns=[VECTORS]):
        found = forms.lengths(batch.column(0))
        if (found >= 0).any():
            return int(found[found >= 0][0])
    return None


def require_same(opened: Sequence[Footer], attribute: str, sentence: str) -> None:
    first = opened[0]
    for other in opened[1:]:
        one, two = getattr(first, attribute), getattr(other, attribute)
        if one != two:
            text = sentence.format(first.path, one, other.path, two)
            raise UsageError(f"{text}: these are two datasets, name one of them")


@dataclass(frozen=True, slots=True)
class Maker:
    """What a manifest says of the model; ``weights`` tells two sets of weights of one model apart."""

    root: Path
    model: str
    weights: str
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Maker | None:
        root = path.parent.parent if path.parent.name == "embeddings" else path.parent
        records = (root / name for name in (HEADER, *RECORDS))
        found = min(root.glob("manifest*.json"), default=None) or next(filter(Path.is_file, records), None)
        if found is None:
            return None
        try:
            content = read_json(found)
        except OutputError as error:
            raise OutputError(f"{found} is no JSON object: restore it, or move it away") from error
        if found.name in (HEADER, *RECORDS):  # made from a dataset, whose maker it names
            content = content.get("made_with") or {}
        settings, weights = content.get("settings"), content.get("weights")
        if not (isinstance(settings, Mapping) and isinstance(settings.get("model"), str)):
            return None  # another program's
        mark = weights.get("sha256") or weights.get("file") if isinstance(weights, Mapping) else None
        return cls(root, settings["model"], str(mark or settings.get("weights")), content)


def common_maker(makers: Mapping[Path, Maker | None]) -> tuple[str | None, Path | None, Mapping[str, Any] | None]:
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


def shared_folder(paths: Sequence[Path]) -> Path:
    shared = paths[0].parent
    while not all(path.is_relative_to(shared) for path in paths):
        shared = shared.parent
    return shared
