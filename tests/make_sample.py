"""Cut the packaged samples from shards in the layout of Core.

    python tests/make_sample.py CORE_FOLDER GRID_CELL    # one row of each dataset, its GeoTIFF blobs byte for byte
    python tests/make_sample.py CORE_FOLDER              # the real chips of three cells of Core-S2L2A, each as a cell

CORE_FOLDER holds Core-S2L1C, Core-S2L2A and Core-S1RTC, each with ``images/*.parquet`` and ``metadata.parquet``.
Writes ``mtembed/sample/Core-*/images/part_00001.parquet`` and ``metadata.parquet``, whose ``parquet_url`` and
``parquet_row`` name the new shard; or ``mtembed/sample/places`` likewise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rasterio.io import MemoryFile
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.sources import SENTINEL2_L2A

SAMPLE = Path(__file__).resolve().parents[1] / "mtembed" / "sample"
DATASETS = ("Core-S2L1C", "Core-S2L2A", "Core-S1RTC")
PART = "images/part_00001.parquet"
CELL_SIDE, CHIP_SIDE = 1068, 222  # px of 10 m; a chip has 224, of which a multiple of 60 m is taken
CHIPS = {"282D_485L": (792, 792), "433D_629L": (264, 792), "637U_59R": (792, 264)}  # row and column of the chip
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


def cut_places(folder: Path, output: Path) -> None:
    """The real chips of Core-S2L2A at their true place, as a shard of small cells."""
    (output / "images").mkdir(parents=True, exist_ok=True)
    lines, writer = [], None
    for cell, corner in CHIPS.items():
        shard, row = find_row(folder, cell)
        lines.append({**metadata_line(folder, shard, row).to_pylist()[0], "parquet_row": len(lines)})
        lines[-1]["parquet_url"] = f"places/{PART}"
        table = pq.ParquetFile(shard).read_row_group(row)
        kept = {name: table[name] for name in ("product_id", "grid_cell", "product_datetime")}
        bands = {name: [_window(table[name][0].as_py(), corner)] for name in SENTINEL2_L2A}
        chip = pa.table({**kept, **{name: pa.array(blob, pa.binary()) for name, blob in bands.items()}})
        writer = writer or pq.ParquetWriter(output / PART, chip.schema, **SMALL)
        writer.write_table(chip)
    assert writer is not None
    writer.close()
    schema = pq.read_schema(folder / "metadata.parquet")
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), output / "metadata.parquet", **SMALL)


def _window(blob: bytes, corner: tuple[int, int]) -> bytes:
    """The chip's part of a band as a GeoTIFF of its own, deflated."""
    with MemoryFile(blob) as memory, memory.open() as band:
        step = CELL_SIDE // band.height
        row, col = (place // step for place in corner)
        window = Window(col, row, CHIP_SIDE // step, CHIP_SIDE // step)
        profile = {
            "driver": "GTiff", "count": 1, "dtype": band.dtypes[0], "crs": band.crs, "nodata": band.nodata,
            "height": window.height, "width": window.width, "transform": band.window_transform(window),
            "compress": "deflate", "predictor": 2, "zlevel": 9,
        }  # fmt: skip
        pixels = band.read(1, window=window)
    with MemoryFile() as memory:
        with memory.open(**profile) as chip:
            chip.write(pixels, 1)
        return bytes(memory.read())


def main() -> None:
    core, *cells = sys.argv[1:]
    if not cells:
        cut_places(Path(core) / "Core-S2L2A", SAMPLE / "places")
    for name in DATASETS if cells else ():
        cut(Path(core) / name, cells[0], SAMPLE / name)


if __name__ == "__main__":
    main()
