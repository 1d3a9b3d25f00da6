"""Cut the packaged sample: one row of each Core dataset, its GeoTIFF blobs byte for byte, in shards of one row.

    python tests/make_sample.py CORE_FOLDER GRID_CELL

CORE_FOLDER holds Core-S2L1C, Core-S2L2A and Core-S1RTC, each with ``images/*.parquet`` and ``metadata.parquet``.
Writes ``mtembed/sample/Core-*/images/part_00001.parquet`` and ``metadata.parquet``, whose ``parquet_url`` and
``parquet_row`` name the new shard.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLE = Path(__file__).resolve().parents[1] / "mtembed" / "sample"
DATASETS = ("Core-S2L1C", "Core-S2L2A", "Core-S1RTC")
PART = "images/part_00001.parquet"
SMALL = {"compression": "zstd", "compression_level": 19, "use_dictionary": False, "write_statistics": False}


def find_row(folder: Path, grid_cell: str) -> tuple[Path, int]:
    """The first shard of a dataset that has the cell, and its row group.  Raises LookupError."""
    for path in sorted((folder / "images").glob("*.parquet")):
        names = pq.read_table(path, columns=["grid_cell"]).column(0).to_pylist()
        if grid_cell in names:
            return path, names.index(grid_cell)
    raise LookupError(f"{folder.name} has no cell {grid_cell}")


def metadata_line(folder: Path, shard: Path, row: int) -> pa.Table:
    """The metadata line of a row, rewritten to name the sample's shard."""
    table = pq.read_table(folder / "metadata.parquet")
    mine = pc.and_(pc.ends_with(table["parquet_url"], "/" + shard.name), pc.equal(table["parquet_row"], row))
    line = table.filter(mine).slice(0, 1).to_pylist()[0]
    line |= {"parquet_url": f"{folder.name}/{PART}", "parquet_row": 0}
    return pa.Table.from_pylist([line], schema=table.schema)


def cut(folder: Path, grid_cell: str, output: Path) -> None:
    """Write one dataset of the sample."""
    shard, row = find_row(folder, grid_cell)
    (output / "images").mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.ParquetFile(shard).read_row_group(row), output / PART, **SMALL)
    pq.write_table(metadata_line(folder, shard, row), output / "metadata.parquet", **SMALL)


def main() -> None:
    core, grid_cell = sys.argv[1:]
    for name in DATASETS:
        cut(Path(core) / name, grid_cell, SAMPLE / name)


if __name__ == "__main__":
    main()
