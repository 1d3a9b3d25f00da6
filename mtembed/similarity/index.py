"""``mtembed index``: what makes searches of large datasets quick.  Built block by block, in bounded memory.

Below ``EXACT_ROWS`` rows the index holds the vectors themselves.  Above, FAISS keeps inverted lists of one bit per
value (RaBitQ, Gao and Long 2024) on disk, and ``codes.u8`` one byte per value to rank what the lists propose.  What
that costs in recall is measured on rows of the dataset, and the search is set so that it is little.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mtembed import __version__
from mtembed.dataset.files import Name
from mtembed.dataset.places import columns_for
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.errors import UsageError
from mtembed.similarity import lists
from mtembed.similarity.result import IndexResult
from mtembed.similarity.rows import SCHEMA, described
from mtembed.similarity.truth import Truth, queries_of

RECORD, VECTORS, ROWS = "index.json", "index.faiss", "rows.parquet"
EXACT_ROWS = 100_000  # of so few rows every vector is compared in a tenth of a second
BLOCK_ROWS = 100_000
ROW_GROUP = 65_536
Tick = Callable[[str, int, int], None]


def index(
    dataset: Name | Sequence[Name],
    output: Name | None = None,
    *,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> IndexResult:
    """Build the index of a dataset of embeddings, for ``search``.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, or several of these that are one dataset.
    output
        Folder of the index. Default: ``DATASET/index`` for a folder.
    fresh
        Start over instead of resuming.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what cannot be done, OutputError for files that cannot be read or written, SettingsError where
    something else lies in the output folder.
    """
    opened = open_dataset(dataset)
    root = folder_of(dataset, output)
    flat = opened.rows < EXACT_ROWS
    files = (VECTORS, ROWS) if flat else (VECTORS, ROWS, *lists.FILES)
    settings = {"metric": "cosine", "kind": "flat" if flat else "lists"}
    folder = ResultFolder(root, RECORD, files, settings, opened.sources())
    with folder.held(fresh) as held:
        nothing_to_do = held.finished
        if not nothing_to_do:
            with _disk_errors():
                _write_rows(opened, held, tick)
                found = _flat(opened, held, tick) if flat else _lists(opened, held, tick)
            held.record({**_facts(opened, dataset, root), **found})
        content = held.content()
    return IndexResult(
        output=root,
        kind=content["kind"],
        metric=content["metric"],
        dim=content["dim"],
        rows=content["rows"],
        recall_at_10=content["recall_at_10"],
        bytes=sum((root / name).stat().st_size for name in files),
        nothing_to_do=nothing_to_do,
    )


def folder_of(dataset: Name | Sequence[Name], output: Name | None) -> Path:
    """Where the index of a dataset is.  Raises UsageError where nobody said so."""
    if output is not None:
        return Path(output)
    if isinstance(dataset, str | Path) and Path(dataset).is_dir():
        return Path(dataset) / "index"
    raise UsageError("--output is needed where DATASET is not a folder: name a folder for the index")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """What FAISS says when it cannot read or write a file is an OSError."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).rpartition("Error: ")[2] or str(error)
        raise OSError(errno.EIO, said) from error


def _facts(opened: EmbeddingDataset, dataset: Name | Sequence[Name], root: Path) -> dict[str, Any]:
    names = [dataset] if isinstance(dataset, str | Path) else list(dataset)
    return {
        "metric": "cosine",
        "dim": opened.dim,
        "rows": opened.rows,
        "model": opened.model,
        "dataset": [os.path.relpath(name, root) for name in names],
        "mtembed": __version__,
    }


def _write_rows(opened: EmbeddingDataset, folder: ResultFolder, tick: Tick) -> None:
    """All that is known of the rows beside their vectors."""
    if (folder.root / ROWS).exists():
        return
    wanted, done, scratch = columns_for(opened, SCHEMA.names), 0, folder.work / ROWS
    with pq.ParquetWriter(scratch, SCHEMA, compression="zstd") as writer:
        for batch in opened.batches(wanted, ROW_GROUP, vectors=False):
            rows = np.arange(batch.first_row, batch.first_row + batch.rows)
            writer.write_table(described(batch.table, opened.files[batch.file].name, rows))
            done += batch.rows
            tick("reading rows", done, opened.rows)
    folder.publish(scratch)


def _flat(opened: EmbeddingDataset, folder: ResultFolder, tick: Tick) -> dict[str, Any]:
    import faiss

    made, done = faiss.IndexFlatIP(opened.dim), 0
    for batch in opened.batches():
        made.add(np.ascontiguousarray(batch.vectors))
        done += batch.rows
        tick("adding vectors", done, opened.rows)
    faiss.write_index(made, str(folder.work / VECTORS))
    folder.publish(folder.work / VECTORS)
    return {"kind": "flat", "recall_at_10": 1.0}


def _lists(opened: EmbeddingDataset, folder: ResultFolder, tick: Tick) -> dict[str, Any]:
    """Files that an earlier start had published before it was stopped are taken back, to be written on."""
    for name in (*lists.FILES, VECTORS):
        if (folder.root / name).exists():
            (folder.root / name).replace(folder.work / name)
    tick("learning the lists", 0, opened.rows)
    trained = lists.trained(opened, folder.work)
    queries = queries_of(opened)
    truth, done = Truth.empty(queries), 0
    with lists.codes_file(folder.work, opened.rows, opened.dim) as codes:
        for number, files in enumerate(_blocks(opened)):
            truth = truth.merged(lists.add_block(opened, trained, codes, folder.work, number, files, queries))
            done += sum(opened.files[file].rows for file in files)
            tick("adding vectors", done, opened.rows)
    tick("joining the lists", opened.rows, opened.rows)
    lists.join(folder.work, VECTORS)
    found = lists.tuned(folder.work, VECTORS, truth)
    for name in (*lists.FILES, VECTORS):
        folder.publish(folder.work / name)
    return found


def _blocks(opened: EmbeddingDataset) -> Iterator[list[int]]:
    """Numbers of files that together have about ``BLOCK_ROWS`` rows."""
    block: list[int] = []
    rows = 0
    for number, file in enumerate(opened.files):
        block.append(number)
        rows += file.rows
        if rows >= BLOCK_ROWS:
            yield block
            block, rows = [], 0
    if block:
        yield block
