"""What is in a file or folder of embeddings: sizes, types, how it was made, and whether the vectors look healthy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtembed.archive.shards import state_of
from mtembed.dataset.atomic import read_json
from mtembed.dataset.part import PART_KEY
from mtembed.dataset.rows import Dtype, schema
from mtembed.errors import OutputError, StorageError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.storage.address import Address, Place
from mtembed.storage.copies import local
from mtembed.storage.remote import open_parquet

SAMPLE_BYTES = 2 << 30  # of vectors that are read; more than that is sampled
BATCH = 4096  # vectors looked at together


def of_file(path: Place) -> dict[str, Any]:
    """Facts about one part; what made it is read from the manifest beside its folder.  Raises UsageError."""
    root = path.above(2) if isinstance(path, Address) else path.parent.parent
    return {"kind": "embeddings", "file": path.name} | _facts([path], root)


def of_folder(path: Path) -> dict[str, Any]:
    """Facts about all parts of an output folder together.  Raises UsageError."""
    parts = sorted((path / "embeddings").glob("*.parquet"))
    if not parts:
        raise UsageError(f"{path} is a folder without embeddings/*.parquet: name shards, parts or an output folder")
    return of_dataset(parts, path.absolute())


def of_dataset(parts: Sequence[Place], root: Place) -> dict[str, Any]:
    """Facts about parts together, with what the manifest in ``root`` says of them.  Raises UsageError."""
    return {"kind": "dataset", "file": root.name} | _facts(parts, root)


def _facts(parts: Sequence[Place], root: Place) -> dict[str, Any]:
    footers = [_footer(path) for path in parts]
    kinds = {str(arrow.field("embedding").type) for _, arrow in footers}
    dtype, dim = _vector_type(footers[0][1])
    rows = sum(metadata.num_rows for metadata, _ in footers)
    stored = {_storage(metadata) for metadata, _ in footers if metadata.num_row_groups}
    cells = [_cells(metadata) for metadata, _ in footers]
    return {
        "bytes": sum(state_of(path)[0] for path in parts),
        "parts": len(parts),
        "rows": rows,
        "cells": None if None in cells else sum(count for count in cells if count is not None),
        "dtype": dtype,
        "dim": dim,
        "vector_types": sorted(kinds),
        "row_groups": sum(metadata.num_row_groups for metadata, _ in footers),
        "storage": sorted(stored),
        "geoparquet": _geo_version(footers[0][0]),
        "columns": footers[0][1].names,
        "schema": _schema_name([arrow for _, arrow in footers], dtype, dim),
        **_origin(root),
        "health": _health(parts, [metadata for metadata, _ in footers], dim),
    }


def _footer(path: Place) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        if isinstance(path, Path) and not path.is_file():
            raise ValueError("it is no file")
        with open_parquet(path) as file:
            count = file.schema_arrow.names.count("embedding")
            if count != 1:
                known = "no column" if not count else f"{count} columns"
                raise UsageError(f"{path} has {known} embedding: name parts of an output folder")
            return file.metadata, file.schema_arrow
    except UNREADABLE as error:
        raise UsageError(
            f"{path} is not a readable Parquet file ({first_line(error).rstrip('.')}): copy it again"
        ) from error


def _vector_type(arrow: pa.Schema) -> tuple[str, int | None]:
    """Name of the values' type and the vector's length (None: lists of any length)."""
    kind = arrow.field("embedding").type
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise UsageError(f"the column embedding is {kind}, which is no list of numbers")
    return _plain(kind.value_type), kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _plain(kind: pa.DataType) -> str:
    return {"float": "float32", "halffloat": "float16", "double": "float64"}.get(str(kind), str(kind))


def _storage(metadata: pq.FileMetaData) -> str:
    """Codec and encodings of the vectors, as the first row group has them."""
    group = metadata.row_group(0)
    chunks = (group.column(i) for i in range(group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == "embedding")
    return ", ".join((chunk.compression.lower(), *(name for name in chunk.encodings if name != "RLE")))


def _cells(metadata: pq.FileMetaData) -> int | None:
    try:
        return len(json.loads(metadata.metadata[PART_KEY])["cells"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _geo_version(metadata: pq.FileMetaData) -> str | None:
    """The version that the ``geo`` key names; None without one that can be read."""
    try:
        return str(json.loads(metadata.metadata[b"geo"])["version"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _schema_name(schemas: Sequence[pa.Schema], dtype: str, dim: int | None) -> str:
    for extras, name in ((False, "mtembed"), (True, "mtembed with extras")):
        if dtype in ("float32", "float16") and dim is not None:
            wanted = schema(dim, cast(Dtype, dtype), extras)
            if all(arrow.equals(wanted) for arrow in schemas):
                return name
    return "other"


def _origin(root: Place) -> dict[str, Any]:
    """What the manifest says about how the vectors were made."""
    try:
        if isinstance(root, Address):
            content = read_json(local(root.above(0, "manifest.json")))
        else:
            content = read_json(min(root.glob("manifest*.json")))
        settings = content["settings"]
        return {
            "mtembed": content["mtembed"],
            "random_weights": content["weights"]["random"],
            **{name: settings[name] for name in ("model", "weights", "source", "precision", "fragment_size")},
        }
    except (ValueError, KeyError, TypeError, FileNotFoundError, OutputError, StorageError):
        return {}


def _health(parts: Sequence[Place], footers: Sequence[pq.FileMetaData], dim: int | None) -> dict[str, Any]:
    """Looks at all vectors, or at evenly spread row groups where they are more than a few GB."""
    paired = zip(parts, footers, strict=True)
    groups = [(path, group) for path, footer in paired for group in range(footer.num_row_groups)]
    vector_bytes = sum(footer.num_rows for footer in footers) * (dim or 1024) * 4
    share = min(1.0, SAMPLE_BYTES / max(1, vector_bytes))
    number = min(len(groups), max(1, round(share * len(groups))))
    chosen = np.unique(np.linspace(0, len(groups) - 1, number).astype(int))
    norms: list[npt.NDArray[np.float64]] = []
    hashes = bytearray()
    constant = 0
    for index in chosen:
        for vectors in _vectors(*groups[index]):
            with np.errstate(over="ignore", invalid="ignore"):
                norms.append(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))
            constant += int((vectors == vectors[:, :1]).all(axis=1).sum())
            hashes += b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in np.ascontiguousarray(vectors))
    return _summary(np.concatenate(norms) if norms else np.empty(0), np.frombuffer(hashes, np.uint64), constant)


def _vectors(path: Place, group: int) -> Iterator[npt.NDArray[Any]]:
    """The vectors of a row group, [n, D] a batch; those that are null are left out.  Raises UsageError."""
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=["embedding"], use_threads=False):
                column = batch.column(0).drop_null()
                if len(column):
                    if len(pc.list_value_length(column).unique()) > 1:
                        raise UsageError(f"row group {group} of {path} holds vectors of different lengths")
                    yield np.asarray(column.flatten()).reshape(len(column), -1)
    except UNREADABLE as error:
        raise UsageError(
            f"row group {group} of {path} cannot be read ({first_line(error).rstrip('.')}): copy it again"
        ) from error


def _summary(norms: npt.NDArray[np.float64], hashes: npt.NDArray[np.uint64], constant: int) -> dict[str, Any]:
    """``identical`` and ``constant`` are shares of vectors that another one equals, or whose values are all equal."""
    finite = np.isfinite(norms)
    counts = np.unique(hashes, return_counts=True)[1]
    total = max(1, len(norms))
    spread = norms[finite] if finite.any() else np.array([np.nan])
    facts: dict[str, Any] = {"vectors": len(norms), "not_finite": int((~finite).sum())}
    for name, value in (("min", spread.min()), ("median", np.median(spread)), ("max", spread.max())):
        facts[f"norm_{name}"] = float(value) if np.isfinite(value) else None
    return facts | {"identical": int(counts[counts > 1].sum()) / total, "constant": constant / total}
