"""``index.faiss``: written a block at a time, so that an index may be larger than memory, and read as a mapped file.

FAISS writes an index from memory only.  So an empty index is serialised by FAISS itself, and what it would have put
where the empty parts stand is put there from files: ``open_index`` reads the result with FAISS, and so can anyone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.errors import OutputError
from mtembed.parquet import first_line
from mtembed.similarity.result import Kind
from mtembed.similarity.scoring import Doubles, Integers, Mask, rounding
from mtembed.types import FloatArray

Bytes = npt.NDArray[np.uint8]
TOTAL = slice(8, 16)  # of an index' bytes: how many vectors it holds (after a name of 4 bytes and the dimension)
EMPTY_LISTS = 32  # bytes at the end of an empty inverted file: ilar, lists, bytes of a code, sprs, no sizes
COUNT = 8  # bytes: the length of a vector of values before these
BLOCK_BYTES = 32 << 20
K_FACTOR = 10.0  # candidates of the 1-bit codes that are looked at again in 8 bits, for each one that is wanted
SPARE = 6  # rows beside those wanted that the inverted lists are asked for: they are looked at as they are
ITERATIONS = 10  # of k-means


def write_flat(path: Path, dim: int, count: int, blocks: Iterable[FloatArray]) -> None:
    """An ``IndexFlatIP`` of ``count`` vectors.  Raises OSError."""
    import faiss

    empty = bytearray(faiss.serialize_index(faiss.IndexFlatIP(dim)).tobytes())
    empty[TOTAL] = struct.pack("<q", count)
    with path.open("wb") as file:
        file.write(bytes(empty[:-COUNT]) + struct.pack("<q", count * dim))
        for block in blocks:
            block.tofile(file)


class Trained:
    """An empty ``IVF,RaBitQ,Refine(SQ8)``: centroids, and the range of each dimension."""

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        self._base, self._refine = (faiss.downcast_index(part) for part in (index.base_index, index.refine_index))
        self.lists = int(self._base.nlist)
        self.code_bytes, self.dim = int(self._base.code_size), int(index.d)

    @classmethod
    def of(cls, sample: FloatArray, low: FloatArray, high: FloatArray, lists: int, seed: int = 0) -> Trained:
        """Trained with unit vectors [n, D]; every value of the dataset lies between ``low`` and ``high`` [D]."""
        import faiss

        index = faiss.index_factory(sample.shape[1], f"IVF{lists},RaBitQ,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT)
        base = faiss.downcast_index(index.base_index)
        base.cp.min_points_per_centroid = 1  # else it complains on stdout
        base.cp.max_points_per_centroid = max(256, len(sample) // lists + 1)
        base.cp.niter, base.cp.seed = ITERATIONS, seed
        base.train(sample)
        index.refine_index.train(np.stack([low, high]))
        index.is_trained, index.k_factor = True, K_FACTOR
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> Trained:
        import faiss

        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Write the empty index.  Raises OSError."""
        import faiss

        path.write_bytes(faiss.serialize_index(self._index).tobytes())

    def encode(self, vectors: FloatArray) -> tuple[npt.NDArray[np.int32], Bytes, Bytes]:
        """Of unit vectors [n, D]: their lists [n], their 1-bit codes [n, code_bytes], their 8-bit codes [n, D]."""
        import faiss

        lists = np.ascontiguousarray(self._base.quantizer.search(vectors, 1)[1][:, 0])
        codes = np.zeros((len(vectors), self.code_bytes), np.uint8)
        self._base.encode_vectors(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
        return lists.astype(np.int32), codes, self._refine.sa_encode(vectors)

    def write(self, path: Path, pieces: Sequence[tuple[Path, Path, Path]]) -> None:
        """The whole index from files of lists, 1-bit and 8-bit codes, in the order of the rows.  Raises OSError.

        The place of each code in its list is known from counts, so the file is written once and memory holds a block.
        """
        import faiss

        base, refine = (bytearray(faiss.serialize_index(part).tobytes()) for part in (self._base, self._refine))
        whole = bytearray(faiss.serialize_index(self._index).tobytes())
        head, tail = whole[: whole.index(base)], whole[whole.index(base) + len(base) + len(refine) :]
        sizes = np.zeros(self.lists, np.int64)
        for lists, _, _ in pieces:
            sizes += np.bincount(_mapped(lists, np.int32), minlength=self.lists)
        count = int(sizes.sum())
        for part in (head, base, refine):
            part[TOTAL] = struct.pack("<q", count)
        directory = base[-EMPTY_LISTS:-12] + b"full" + struct.pack("<q", self.lists) + sizes.tobytes()
        with path.open("wb") as file:
            file.write(bytes(head + base[:-EMPTY_LISTS] + directory))
            start = file.tell()
            file.truncate(start + count * (self.code_bytes + 8))
            self._fill(path, start, sizes, pieces)
            file.seek(0, 2)
            file.write(bytes(refine[:-COUNT]) + struct.pack("<q", count * self.dim))
            for _, _, codes in pieces:
                for block in _blocks(codes):
                    file.write(block)
            file.write(bytes(tail))

    def _fill(self, path: Path, start: int, sizes: Integers, pieces: Sequence[tuple[Path, Path, Path]]) -> None:
        """The inverted lists: of each one all codes, then all numbers of rows."""
        if not sizes.sum():
            return
        width = self.code_bytes
        target = np.memmap(path, np.uint8, "r+", start, (int(sizes.sum()) * (width + 8),))
        begins = np.cumsum(np.append(0, sizes[:-1])) * (width + 8)
        filled, first = np.zeros(self.lists, np.int64), 0
        step = max(1, BLOCK_BYTES // (8 * width))
        for lists_path, codes_path, _ in pieces:
            lists, codes = _mapped(lists_path, np.int32), _mapped(codes_path, np.uint8).reshape(-1, width)
            for begin in range(0, len(lists), step):
                of = lists[begin : begin + step].astype(np.int64)
                rank = filled[of] + _ranks(of)
                filled += np.bincount(of, minlength=self.lists)
                target[(begins[of] + rank * width)[:, None] + np.arange(width)] = codes[begin : begin + step]
                ids = np.arange(first + begin, first + begin + len(of)).view(np.uint8).reshape(-1, 8)
                target[(begins[of] + sizes[of] * width + rank * 8)[:, None] + np.arange(8)] = ids
            first += len(lists)
        target.flush()


def _mapped(path: Path, dtype: Any) -> npt.NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _blocks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _ranks(values: Integers) -> Integers:
    """For each value how many before it are equal to it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    return ranks


class OpenIndex:
    """An index that lies mapped in memory; ``bound`` is how far ``approximate`` may be off."""

    def __init__(self, index: Any, kind: Kind) -> None:
        import faiss

        self._index, self.kind = index, kind
        self.dim, self.count = int(index.d), int(index.ntotal)
        part = faiss.downcast_index(index.refine_index) if kind == "ivf" else index
        values = self.count * self.dim
        if kind == "exact":
            vectors = faiss.rev_swig_ptr(part.get_xb(), values) if values else np.empty(0, np.float32)
            self._codes = vectors.reshape(-1, self.dim)
            self.bound = rounding(self.dim)
            return
        codes = faiss.rev_swig_ptr(part.codes.data(), values) if values else np.empty(0, np.uint8)
        self._codes = codes.reshape(-1, self.dim)
        low, width = faiss.vector_to_array(part.sq.trained).astype(np.float64).reshape(2, -1)
        self._step, self._base = width / 255.0, low + width / 510.0
        self.bound = float(np.linalg.norm(width / 510.0)) + rounding(self.dim)

    def approximate(self, query: Doubles, ids: Integers | None) -> FloatArray:
        """Cosine of rows (all of them for None) with a unit vector [D], from what the index keeps of them, [n]."""
        weights, offset = (query, 0.0) if self.kind == "exact" else (query * self._step, float(query @ self._base))
        weights = weights.astype(np.float32)
        count = self.count if ids is None else len(ids)
        found = np.empty(count, np.float32)
        step = max(1, BLOCK_BYTES // (4 * self.dim))
        for first in range(0, count, step):
            rows: Any = slice(first, first + step) if ids is None else ids[first : first + step]
            found[first : first + step] = self._codes[rows].astype(np.float32, copy=False) @ weights + offset
        return found

    def vectors(self, ids: Integers) -> FloatArray:
        """Rows as the index keeps them, float32 [n, D]."""
        if self.kind == "exact":
            return np.array(self._codes[ids])
        return np.asarray(self._codes[ids] * self._step + self._base, np.float32)

    def nearest(
        self, queries: FloatArray, count: int, nprobe: int, factor: float, mask: Mask | None = None
    ) -> Integers:
        """Rows that the inverted file finds for each query [q, D]: int64 [q, count], -1 where there are too few.

        ``nprobe`` lists are looked at, and ``factor`` candidates for each row wanted are compared in 8 bits.
        """
        import faiss

        if mask is None:
            inside = faiss.SearchParametersIVF(nprobe=nprobe)
        else:
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            inside = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
        options = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inside)
        found: Integers = self._index.search(queries, count, params=options)[1]
        return found


def open_index(path: Path, kind: Kind, dim: int, count: int) -> OpenIndex:
    """Map an index; it must hold ``count`` vectors of ``dim`` values.  Raises OutputError."""
    import faiss

    advice = "make it again with mtembed index and --fresh"
    try:
        with path.open("rb"):
            pass
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        wanted = "IndexRefine" if kind == "ivf" else "IndexFlatIP"
        if type(index).__name__ not in (wanted, "IndexFlat") or (index.d, index.ntotal) != (dim, count):
            raise ValueError(f"it is a {type(index).__name__} of {index.ntotal} x {index.d}, not of {count} x {dim}")
        return OpenIndex(index, kind)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise OutputError(f"{path} cannot be read ({first_line(error)[:200]}): {advice}") from error
