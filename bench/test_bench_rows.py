"""CPU time of what the writer does after the network: footprints, identifiers, table, file; 25 fragments a cell."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import Transformer

from bench.conftest import Paired
from mtembed.dataset.printing import print_vectors
from mtembed.dataset.rows import PartWriter, build_table, row_groups, schema
from mtembed.geo.footprint import footprints
from mtembed.types import CellRecord, Georeference

CELLS, FRAGMENTS = 100, 25
STEPS = (0, 211, 422, 633, 844)

pytestmark = pytest.mark.benchmark(group="rows", timer=time.process_time)


def _records() -> list[CellRecord]:
    offsets = np.array([(row, col) for row in STEPS for col in STEPS], np.int32)
    places = [
        Georeference(32631 + i // 20, 300000.25, 5000000.5 + 10000 * i, 10.0, 10.0, 1068, 1068) for i in range(CELLS)
    ]
    names = [(f"S2B_MSIL2A_20230824T131249_{i}", f"{i}U_457L", "20230824T131249") for i in range(CELLS)]
    return [CellRecord(i, *names[i], places[i], 224, offsets) for i in range(CELLS)]


def _vectors(dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CELLS * FRAGMENTS, dim)).astype(np.float32)


@pytest.mark.parametrize("dim", [768, 2048])
def test_rows_to_file(paired: Paired, tmp_path: Path, dim: int) -> None:
    records, vectors = _records(), _vectors(dim)

    def write() -> None:
        writer = PartWriter(tmp_path / "part.parquet", schema(dim, "float32", False))
        for first, last in row_groups([FRAGMENTS] * CELLS, dim, 4):
            rows = vectors[first * FRAGMENTS : last * FRAGMENTS]
            writer.write(build_table(records[first:last], rows, "float32", False))
        writer.close({})

    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    plain = pa.table({"embedding": column})
    paired(
        write,
        lambda: pq.write_table(plain, tmp_path / "plain.parquet", compression="zstd"),
        "pyarrow, the vectors alone",
        cells=CELLS,
    )


def test_footprints(paired: Paired) -> None:
    records = _records()
    to_degrees = [Transformer.from_crs(r.georeference.epsg, 4326, always_xy=True) for r in records[::20]]

    def one_by_one() -> None:
        for i, record in enumerate(records):
            place = record.georeference
            for row, col in record.offsets:
                west, north = place.left + col * place.pixel_width, place.top - row * place.pixel_height
                square = shapely.box(west, north - 2240.0, west + 2240.0, north)
                shapely.transform(square, to_degrees[i // 20].transform, interleaved=False)

    paired(lambda: footprints(records), one_by_one, "shapely and pyproj, one by one", 5, CELLS)


@pytest.mark.parametrize("dim", [512, 768, 1152, 2048])
def test_printed_vectors(paired: Paired, dim: int) -> None:
    vectors = _vectors(dim)[: 4 * FRAGMENTS]
    paired(lambda: print_vectors(vectors), lambda: [str(vector) for vector in vectors], "numpy's printing", 5, 4)
