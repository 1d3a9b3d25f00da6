"""``metadata.parquet`` of Core: what it says about the rows of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtembed.archive.shards import missing_columns
from mtembed.errors import UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import MetadataLine

METADATA_COLUMNS = (
    "product_id", "timestamp", "grid_cell", "crs", "centre_lat", "centre_lon", "parquet_url", "parquet_row",
)  # fmt: skip
Located = tuple[MetadataLine, float, float]


def find_metadata(shard: Path) -> Path | None:
    """``metadata.parquet`` beside ``images/`` (or beside the shard)."""
    candidates = (shard.parent.parent / "metadata.parquet", shard.parent / "metadata.parquet")
    return next((p for p in candidates if p.is_file()), None)


class MetadataIndex:
    """``metadata.parquet``, read column-pruned: which of its row groups speak of a shard, and their lines on demand."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._groups: dict[str, list[int]] | None = None
        self._columns: list[str] = []

    def of_shard(self, name: str) -> dict[int, list[Located]]:
        """row -> lines about it (several where the archive repeats itself), with centre latitude and longitude."""
        if self.path is None:
            return {}
        lines: dict[int, list[Located]] = {}
        with pq.ParquetFile(self.path) as file:
            groups = self._index(file).get(name, [])
            for batch in file.iter_batches(row_groups=groups, columns=self._columns, batch_size=1 << 16):
                mine = batch.filter(_ends_with(batch.column("parquet_url"), name))
                for line in mine.to_pylist():
                    lines.setdefault(int(line["parquet_row"]), []).append(_located(line))
        return lines

    def _index(self, file: pq.ParquetFile) -> dict[str, list[int]]:
        if self._groups is None:
            self._groups = {}
            self._columns = [name for name in METADATA_COLUMNS if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                urls = file.read_row_group(group, columns=["parquet_url"], use_threads=False).column(0)
                for url in urls.unique().to_pylist():
                    self._groups.setdefault(str(url).rsplit("/", 1)[-1], []).append(group)
        return self._groups


def check_metadata(path: Path) -> None:
    """Raises UsageError unless the file is a metadata table of Core."""
    try:
        names = pq.read_schema(path).names
    except UNREADABLE as error:
        raise UsageError(f"--metadata {path} is not a readable Parquet file: {first_line(error)}") from error
    missing = missing_columns(names, ("parquet_url", "parquet_row", "product_id", "timestamp"))
    if missing:
        raise UsageError(f"--metadata {path} has no column {', '.join(missing)}: name Core's metadata.parquet")


def _ends_with(urls: Any, name: str) -> Any:
    return pc.or_(pc.ends_with(urls, "/" + name), pc.equal(urls, name))


def _located(line: dict[str, Any]) -> Located:
    text = {key: str(line.get(key) or "") for key in ("product_id", "timestamp", "grid_cell", "crs", "parquet_url")}
    lat, lon = (float(np.nan if line.get(key) is None else line[key]) for key in ("centre_lat", "centre_lon"))
    return MetadataLine(**text), lat, lon
