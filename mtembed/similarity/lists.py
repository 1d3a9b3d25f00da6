"""Inverted lists of large datasets: learned from a sample, filled block by block, joined on disk, tuned by recall."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.similarity.best import Integers, unit
from mtembed.similarity.truth import NEIGHBOURS, SEED, Queries, Truth
from mtembed.types import FloatArray

FILES = ("lists.ivfdata", "codes.u8", "refine.faiss")
TRAINED, REFINE = "trained.faiss", "refine.faiss"
TRAINING_BYTES = 256 << 20
POINTS_PER_LIST = 40  # FAISS warns below 39 (faiss/Clustering.h, min_points_per_centroid)
MOST_LISTS = 65_536
MOST_GROUPS = 200  # row groups that the training sample is read from, where they hold enough
WANTED_RECALL, LEAST_RECALL = 0.98, 0.95
EFFORTS = ((8, 10), (16, 10), (32, 10), (32, 20), (64, 20), (64, 40), (128, 40), (256, 80))
"""(lists that are looked into, candidates for each wanted row), the cheapest first."""


def list_count(rows: int, dim: int) -> int:
    """A power of two near 4 sqrt(rows), as few as the training sample can teach (FAISS wiki, choosing an index)."""
    teachable = TRAINING_BYTES // (4 * dim) // POINTS_PER_LIST
    most = max(1, min(int(4 * rows**0.5), teachable, rows // POINTS_PER_LIST, MOST_LISTS))
    return int(2 ** (most.bit_length() - 1))


def trained(dataset: EmbeddingDataset, work: Path) -> Any:
    """The empty index, which is kept in ``work``: a later start goes on with the same lists."""
    import faiss

    path = work / TRAINED
    if not path.exists():
        count = list_count(dataset.rows, dataset.dim)
        sample = _sample(dataset, count * POINTS_PER_LIST)
        made = faiss.index_factory(dataset.dim, f"IVF{count},RaBitQ", faiss.METRIC_INNER_PRODUCT)
        made.train(sample)
        refine = faiss.IndexScalarQuantizer(dataset.dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        refine.train(sample)
        faiss.write_index(refine, str(work / REFINE))
        _write(made, path)
    return faiss.read_index(str(path))


def _write(made: Any, path: Path) -> None:
    """Complete or not at all."""
    import faiss

    scratch = path.with_suffix(".new")
    faiss.write_index(made, str(scratch))
    scratch.replace(path)


def _sample(dataset: EmbeddingDataset, count: int) -> FloatArray:
    """At least ``count`` vectors at length 1 where there are so many, from row groups chosen at random."""
    chance = np.random.default_rng(SEED)
    groups = [(f, g) for f, file in enumerate(dataset.files) for g in range(len(file.row_groups))]
    order = chance.permutation(len(groups)).tolist()
    found: list[FloatArray] = []
    have = 0
    for place, number in enumerate(order):
        if have >= count:
            break
        file, group = groups[number]
        first, rows = sum(dataset.files[file].row_groups[:group]), dataset.files[file].row_groups[group]
        share = -(-(count - have) // max(1, min(len(order), MOST_GROUPS) - place))  # few of each: neighbours are alike
        inside = first + np.sort(chance.choice(rows, min(rows, share), replace=False))
        vectors, _ = dataset.take(file, inside)
        if vectors is not None and len(vectors):
            whole = unit(vectors)
            found.append(whole[np.isfinite(whole).all(axis=1)].astype(np.float32))
            have += len(found[-1])
    return np.concatenate(found)


@contextlib.contextmanager
def codes_file(work: Path, rows: int, dim: int) -> Iterator[npt.NDArray[np.uint8]]:
    """One byte per value, uint8 [rows, dim], on disk."""
    path = work / "codes.u8"
    codes = np.memmap(path, np.uint8, "r+" if path.exists() else "w+", shape=(rows, dim))
    yield codes
    codes.flush()


def add_block(
    dataset: EmbeddingDataset,
    trained: Any,
    codes: npt.NDArray[np.uint8],
    work: Path,
    number: int,
    files: Sequence[int],
    queries: Queries,
) -> Truth:
    """Fill lists of a block of files, unless an earlier start has; its share of the truth comes back."""
    import faiss

    path, beside = work / f"block-{number:05}.faiss", work / f"block-{number:05}.npz"
    if path.exists():
        with np.load(beside, allow_pickle=False) as kept:
            return Truth(queries, kept["rows"], kept["scores"])
    trained.reset()
    refine = faiss.read_index(str(work / REFINE))
    ends = np.cumsum([0, *(file.rows for file in dataset.files)])
    truth = Truth.empty(queries)
    for batch in dataset.batches(rows=16_384, files=files):
        assert batch.vectors is not None
        first = int(ends[batch.file]) + batch.first_row
        vectors = unit(batch.vectors).astype(np.float32)
        usable = np.isfinite(vectors).all(axis=1)
        vectors[~usable] = 0.0
        codes[first : first + batch.rows] = refine.sq.compute_codes(vectors)
        trained.add_with_ids(vectors[usable], first + np.flatnonzero(usable))
        vectors[~usable] = np.nan
        truth = truth.compared(vectors, first)
    codes.flush()  # type: ignore[attr-defined]
    np.savez(beside, rows=truth.rows, scores=truth.scores)
    _write(trained, path)
    return truth


def join(work: Path, name: str) -> None:
    """One index over all blocks, whose lists stay on disk."""
    import faiss

    lists = faiss.InvertedListsPtrVector()
    blocks = [faiss.read_index(str(path), faiss.IO_FLAG_MMAP) for path in sorted(work.glob("block-*.faiss"))]
    for block in blocks:
        lists.push_back(block.invlists)
    whole = faiss.read_index(str(work / TRAINED))
    on_disk = faiss.OnDiskInvertedLists(whole.nlist, whole.code_size, str(work / FILES[0]))
    whole.ntotal = on_disk.merge_from_multiple(lists.data(), lists.size(), False)
    whole.replace_invlists(on_disk, True)
    on_disk.this.disown()
    faiss.write_index(whole, str(work / name))


class Lists:
    """The lists of a finished index, mapped from disk."""

    def __init__(self, root: Path, name: str) -> None:
        import faiss

        self.index = faiss.read_index(str(root / name), faiss.IO_FLAG_ONDISK_SAME_DIR)
        self._refine = faiss.read_index(str(root / REFINE))
        self._codes = np.memmap(root / "codes.u8", np.uint8, "r").reshape(-1, self.index.d)

    def candidates(
        self, vectors: FloatArray, count: int, lists: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> Integers:
        """Rows [q, count] that the lists propose for vectors of length 1 [q, D], -1 where there are no more."""
        import faiss

        options: dict[str, Any] = {"nprobe": min(lists, self.index.nlist)}
        if allowed is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        found = self.index.search(vectors, count, params=faiss.SearchParametersIVF(**options))[1]
        return np.asarray(found, np.int64)

    def vectors(self, rows: Integers) -> FloatArray:
        """What the codes of rows say, float32 [n, D], nearly of length 1."""
        return np.asarray(self._refine.sq.decode(np.ascontiguousarray(self._codes[rows])), np.float32)


def tuned(root: Path, name: str, truth: Truth) -> dict[str, Any]:
    """The cheapest effort that finds nearly all true neighbours, with the recall it was measured to have."""
    opened = Lists(root, name)
    count = truth.rows.shape[1]
    best: tuple[float, int, int] = (0.0, *EFFORTS[0])
    for lists, factor in EFFORTS:
        found = _ranked(opened, truth.queries, max(1, count) + 1, lists, factor)
        recall = truth.recall(found)
        best = max(best, (recall, lists, factor), key=lambda one: one[0])
        if recall >= WANTED_RECALL or lists >= opened.index.nlist:
            break
    return {
        "kind": f"IVF{opened.index.nlist},RaBitQ,Refine(SQ8)",
        "recall_at_10": round(best[0], 4),
        "lists_searched": best[1],
        "candidates_per_hit": best[2],
    }


def _ranked(opened: Lists, queries: Queries, count: int, lists: int, factor: int) -> Integers:
    """What the index finds for each query but itself, [q, count - 1]."""
    proposed = opened.candidates(queries.vectors, count * factor, lists)
    found = []
    for own, vector, rows in zip(queries.rows, queries.vectors, proposed, strict=True):
        rows = rows[(rows >= 0) & (rows != own)]
        scores = opened.vectors(rows) @ vector
        best = rows[np.argsort(-scores, kind="stable")][: min(NEIGHBOURS, count - 1)]
        found.append(np.pad(best, (0, count - 1 - len(best)), constant_values=-1))
    return np.stack(found)
