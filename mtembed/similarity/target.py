"""What is searched: an index with the dataset it was made from, an index alone, or a dataset without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtembed.dataset.atomic import read_json
from mtembed.dataset.finding import Name, default_output
from mtembed.dataset.reader import open_dataset
from mtembed.errors import MtembedError, OutputError
from mtembed.similarity.index import FOLDER, RECORD, TABLE, VECTORS
from mtembed.similarity.index_file import K_FACTOR, OpenIndex, open_index
from mtembed.similarity.rows import DatasetRows, IndexRows, Rows
from mtembed.similarity.scoring import Integers
from mtembed.storage.address import Address, is_address
from mtembed.types import FloatArray, Tick

AGAIN = "make it again with mtembed index and --fresh"
TYPES: dict[str, type | tuple[type, ...]] = {
    "kind": str, "dim": int, "rows": int, "left_out": int, "bytes": int, "columns": list, "dataset": str,
    "sources": list, "recall_at_10": (int, float),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """``rows`` are those of ``index``, where there is one, else of the dataset; at least one of both is there."""

    rows: Rows
    dataset: DatasetRows | None
    index: OpenIndex | None
    nprobe: int
    k_factor: float
    dim: int
    model: str | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.dataset.name if self.dataset is not None else self.rows.name

    def numbers(self, ids: Integers) -> Integers:
        """Numbers in the dataset of rows by their numbers in ``rows``."""
        if self.dataset is None or self.index is None:
            return ids
        first = dict(zip(self.dataset.names, self.dataset.starts.tolist(), strict=False))
        table = self.rows.take(ids, ("file", "row"))
        starts = np.array([first[name] for name in table["file"].to_pylist()], np.int64)
        found: Integers = table["row"].to_numpy() + starts
        return found

    def vectors(self, ids: Integers) -> FloatArray:
        """Vectors of rows, float32 [n, D]: as they are, or as the index keeps them where there is no dataset."""
        if self.dataset is not None:
            return self.dataset.vectors(self.numbers(ids))
        assert self.index is not None
        return self.index.vectors(ids)


def open_target(name: Name | Sequence[Name], exact: bool, tick: Tick = lambda what, done, total: None) -> Target:
    """Find the index and the dataset that a name stands for; ``exact`` leaves a dataset's index aside.

    Raises UsageError where nothing is found, OutputError for an index that is damaged, or is not of its dataset as it
    is now.
    """
    single = Path(name) if isinstance(name, str | Path) and not is_address(str(name)) else None
    if single is not None and (single / RECORD).is_file():
        return _of_index(single, exact)
    dataset = DatasetRows(open_dataset(name, tick=tick))
    folder = default_output(name, FOLDER)
    if exact or not (folder / RECORD).is_file():
        return _scanned(dataset, ())
    try:
        record = _record(folder)
        if not _same(record, dataset):
            raise OutputError("it was made from other files than the dataset has now")
        return _indexed(folder, record, dataset)
    except MtembedError as error:
        return _scanned(dataset, (f"the index in {folder.name} is left aside ({error}): {AGAIN}",))


def _scanned(dataset: DatasetRows, notes: tuple[str, ...]) -> Target:
    opened = dataset.dataset
    return Target(
        rows=dataset,
        dataset=dataset,
        index=None,
        nprobe=0,
        k_factor=0.0,
        dim=opened.dim,
        model=opened.model,
        notes=notes,
    )


def _of_index(folder: Path, exact: bool) -> Target:
    record = _record(folder)
    dataset = _dataset(folder, record)
    if dataset is not None and not _same(record, dataset):
        raise OutputError(f"{folder} was made from other files than {dataset.name} has now: {AGAIN}")
    if dataset is not None and exact:
        return _scanned(dataset, ())
    return _indexed(folder, record, dataset)


def _dataset(folder: Path, record: dict[str, Any]) -> DatasetRows | None:
    """The dataset of an index, where it still is where it was."""
    names = [str(source.get("file")) for source in record["sources"]]
    if is_address(record["dataset"]):
        return _dataset_behind(Address.of(record["dataset"]), names)
    shared = (folder / record["dataset"]).resolve()
    files = [shared / name for name in names]
    if not files or not all(path.is_file() for path in files):
        return None
    if len(files) == 1:
        return DatasetRows(open_dataset(files[0]))
    dataset = DatasetRows(open_dataset(shared.parent if shared.name == "embeddings" else shared))
    here = sorted(Path(str(file.path)).resolve() for file in dataset.dataset.files)
    return dataset if here == sorted(files) else DatasetRows(open_dataset(files))


def _dataset_behind(shared: Address, names: Sequence[str]) -> DatasetRows | None:
    """Where it can still be read without the secrets that an address had, which no index keeps."""
    try:
        return DatasetRows(open_dataset([shared.above(0, name).url for name in names]))
    except (MtembedError, OSError):
        return None


def _same(record: dict[str, Any], dataset: DatasetRows) -> bool:
    return bool(record["sources"] == [dataset.dataset.files[number].source() for number in dataset.order])


def _indexed(folder: Path, record: dict[str, Any], dataset: DatasetRows | None) -> Target:
    path = folder / VECTORS
    size = path.stat().st_size if path.is_file() else -1
    if size != record["bytes"]:
        raise OutputError(f"{path} has {max(0, size)} bytes and should have {record['bytes']}: {AGAIN}")
    index = open_index(path, record["kind"], record["dim"], record["rows"])
    rows = IndexRows(folder / TABLE, folder.absolute().name, record["columns"])
    if rows.count != index.count:
        raise OutputError(f"{folder / TABLE} has {rows.count} rows and should have {index.count}: {AGAIN}")
    notes = []
    if dataset is None and record["kind"] == "ivf":
        notes.append(f"the dataset of {folder.name} is not where it was: scores are those of 8-bit codes")
    return Target(
        rows=rows,
        dataset=dataset,
        index=index,
        nprobe=record["nprobe"] or 1,
        k_factor=record["k_factor"] or K_FACTOR,
        dim=record["dim"],
        model=record["model"],
        notes=tuple(notes),
    )


def _record(folder: Path) -> dict[str, Any]:
    """``index.json`` with the values that are used.  Raises OutputError."""
    try:
        record = read_json(folder / RECORD)
    except OutputError as error:
        raise OutputError(f"{folder / RECORD} cannot be read as JSON: {AGAIN}") from error
    for name, kind in TYPES.items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            raise OutputError(f"{folder / RECORD} has no usable {name}: {AGAIN}")
    fine = record["kind"] in ("exact", "ivf") and all(isinstance(one, dict) for one in record["sources"])
    numbers = (record.setdefault("nprobe", None), record.setdefault("k_factor", None))
    if not fine or not all(isinstance(number, int | float | None) for number in numbers):
        raise OutputError(f"{folder / RECORD} was not written by mtembed index: {AGAIN}")
    record.setdefault("model", None)
    return record
