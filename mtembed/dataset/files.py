"""The files of a dataset of embeddings: what their footers say, and who made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.shards import fingerprint
from mtembed.dataset import columns as forms
from mtembed.dataset.array import HEADER, RawArray
from mtembed.dataset.atomic import read_json
from mtembed.dataset.finding import PARTS
from mtembed.dataset.form import Form
from mtembed.errors import OutputError, StorageError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.storage.address import Address, Place
from mtembed.storage.copies import local
from mtembed.storage.remote import RemoteParquet, tail
from mtembed.types import Fingerprint

VECTORS = "embedding"
RECORDS = ("convert.json", "merge.json")  # of datasets that were made from another one
BUFFER_BYTES = 4 << 20  # read at a time from a column chunk


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One file: ``name`` is its path below the folder all files share, ``mark`` its size, time, rows, footer hash.

    ``form`` is how vectors are stored that are not lists of floats; of an ``array``, ``path`` is its metadata.
    """

    path: Place
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


def damaged(path: Place, error: BaseException) -> str:
    """The sentence for a file of embeddings that cannot be read."""
    return f"{path} cannot be read ({first_line(error).rstrip('.')}): copy it again, or make it again"


def open_file(path: Place) -> pq.ParquetFile:
    """A file of embeddings; the checksums of its pages are compared.  Raises StorageError and pyarrow's errors."""
    if isinstance(path, Address):
        return RemoteParquet(path, checksums=True)
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer says; ``dim`` is None for lists of unknown length (a file without rows)."""

    path: Place
    row_groups: tuple[int, ...]
    columns: tuple[str, ...]
    dtype: str
    dim: int | None
    mark: Fingerprint
    form: Form | None = None
    array: RawArray | None = None
    maps: bool = False

    @classmethod
    def of(cls, path: Place) -> Footer:
        """Raises UsageError where there are no vectors, OutputError or StorageError where the file cannot be read."""
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
                    mark=fingerprint(path, footer.num_rows, file),
                    form=form,
                    maps=forms.SHAPE_KEY.encode() in (arrow.field(VECTORS).metadata or {}),
                )
        except FileNotFoundError:
            raise UsageError(f"{path} does not exist: name files of embeddings") from None
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


def schema_of(path: Place) -> pa.Schema:
    """Raises StorageError and pyarrow's errors."""
    with open_file(path) as file:
        return file.schema_arrow


def other_keys(path: Place) -> dict[bytes, bytes]:
    """Keys of a file's footer, ``geo`` among them, without what Arrow keeps there for itself."""
    with open_file(path) as file:
        return {key: value for key, value in (file.metadata.metadata or {}).items() if key != b"ARROW:schema"}


def _vectors_of(path: Place, file: pq.ParquetFile) -> tuple[str, int | None]:
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

    root: Place
    model: str
    weights: str
    manifest: Mapping[str, Any]

    @classmethod
    def at(cls, root: Place) -> Maker | None:
        """Who made the files of a folder, as far as files in it say.  Raises OutputError."""
        found = _record_in(root)
        if found is None:
            return None
        try:
            content = read_json(local(found))
        except OutputError as error:
            raise OutputError(f"{found} is no JSON object: restore it, or move it away") from error
        if found.name in (HEADER, *RECORDS):  # made from a dataset, whose maker it names
            content = content.get("made_with") or {}
        settings, weights = content.get("settings"), content.get("weights")
        if not (isinstance(settings, Mapping) and isinstance(settings.get("model"), str)):
            return None  # another program's
        mark = weights.get("sha256") or weights.get("file") if isinstance(weights, Mapping) else None
        return cls(root, settings["model"], str(mark or settings.get("weights")), content)


def root_of(path: Place) -> Place:
    """The folder whose files say who made a file of embeddings."""
    if isinstance(path, Address):
        return path.above(2 if path.above(1).name == PARTS else 1)
    return path.parent.parent if path.parent.name == PARTS else path.parent


def _record_in(root: Place) -> Place | None:
    """The file that says who made a dataset; behind addresses, where it may be read."""
    if isinstance(root, Path):
        records = (root / name for name in (HEADER, *RECORDS))
        return min(root.glob("manifest*.json"), default=None) or next(filter(Path.is_file, records), None)
    for name in ("manifest.json", HEADER, *RECORDS):
        with suppress(FileNotFoundError, StorageError):
            tail(root.above(0, name), 8)
            return root.above(0, name)
    return None


def common_maker(makers: Mapping[Place, Maker | None]) -> tuple[str | None, Place | None, Mapping[str, Any] | None]:
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
