"""A cell from its row group into a slot: what is read, what it is told by, and what fails it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtembed.archive.cell import DecodeJob, decode_cell
from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex
from mtembed.archive.reader import ShardReader
from mtembed.archive.selection import Selection
from mtembed.errors import CellError
from mtembed.ring import Ring, RingShape
from mtembed.types import CellTiming, DecodedCell, ShardListing, Source
from tests.tools.shards import BANDS as BANDS_OF
from tests.tools.shards import (
    Shard,
    default_cells,
    geotiff,
    make_shard,
    place,
    retyped,
    with_column_twice,
    write_metadata,
)

ROOT = Path(__file__).resolve().parents[2]
BANDS = ("vv", "vh")
JOB = DecodeJob("S1RTC", BANDS, 32, 0.1, True, False, 1.0, False)
SHAPE = RingShape(1, 9 * 512 * 4, 1 << 20)


class Decoding:
    """One slot and one reader: ``of`` decodes a row of a shard."""

    def __init__(self) -> None:
        self.ring = Ring.create(SHAPE)
        self.slot = self.ring.slot(0)
        self.reader = ShardReader()
        self.timing = CellTiming("", 0)

    def of(
        self, path: Path, row: int = 0, job: DecodeJob = JOB, metadata: Path | None = None, **given: Any
    ) -> DecodedCell:
        listing = listed(path, metadata)
        self.slot, self.timing = self.ring.slot(0), CellTiming(path.name, row)
        cell = next(cell for cell in listing.cells if cell.row_group == row)
        decoded = decode_cell(self.reader, job, path, cell, self.slot, self.timing, **given)
        assert decoded is not None
        return decoded

    def pixels(self, decoded: DecodedCell) -> list[np.ndarray[Any, Any]]:
        return [self.slot.plane(plane, decoded.dtype).copy() for plane in decoded.planes]


def listed(path: Path, metadata: Path | None = None) -> ShardListing:
    listing = list_shard(0, path, BANDS, MetadataIndex(metadata), Selection())
    assert not listing.error, listing.error
    return listing


@pytest.fixture
def decoding() -> Decoding:
    return Decoding()


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "images/part_1.parquet", 2, "S1RTC", 64)


def dictionary(values: pa.Array) -> pa.Array:
    return values.dictionary_encode()


def fixed(values: pa.Array) -> pa.Array:
    """As fixed_size_binary: all blobs of the test have one length."""
    return values.cast(pa.binary(len(values[0].as_py())))


BYTES: dict[str, Any] = {
    "large_binary": pa.large_binary(), "binary_view": pa.binary_view(), "dictionary": dictionary, "fixed_size": fixed,
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "binary": pa.binary(), "large_binary": pa.large_binary(), "binary_view": pa.binary_view(),
    "large_string": pa.large_string(), "string_view": pa.string_view(), "dictionary": dictionary,
}  # fmt: skip


@pytest.mark.parametrize("kind", BYTES)
def test_blobs_of_every_type_of_bytes_give_the_same_pixels(decoding: Decoding, shard: Shard, kind: str) -> None:
    before = [decoding.pixels(decoding.of(shard.path, row)) for row in (0, 1)]
    retyped(shard.path, dict.fromkeys(BANDS, BYTES[kind]))
    fresh = Decoding()
    after = [fresh.pixels(fresh.of(shard.path, row)) for row in (0, 1)]
    np.testing.assert_equal(after, before)


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_every_type_say_the_same(shard: Shard, kind: str) -> None:
    before = Decoding().of(shard.path, 1).record
    retyped(shard.path, dict.fromkeys(("product_id", "grid_cell", "product_datetime"), TEXTS[kind]))
    after = Decoding().of(shard.path, 1).record
    names = ("product_id", "grid_cell", "timestamp", "baseline")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]


@pytest.mark.parametrize("name", ["product_id", "grid_cell"])
def test_names_that_are_not_utf8_fail_the_cell(decoding: Decoding, shard: Shard, name: str) -> None:
    retyped(shard.path, {name: lambda values: pa.array([b"\xff\xfe"] * len(values))})
    with pytest.raises(CellError, match=f"{name} is not UTF-8"):
        decoding.of(shard.path)


@pytest.mark.parametrize("name", ["product_id", "grid_cell"])
def test_names_of_more_than_a_kilobyte_fail_the_cell(decoding: Decoding, shard: Shard, name: str) -> None:
    retyped(shard.path, {name: lambda values: pa.array(["x" * 300_000] * len(values))})
    with pytest.raises(CellError, match="more than 1024 bytes"):
        decoding.of(shard.path)
    assert len(decoding.timing.product_id) + len(decoding.timing.grid_cell) < 2048


def test_a_column_that_appears_twice_later_fails_the_cell_in_one_sentence(decoding: Decoding, shard: Shard) -> None:
    listing = listed(shard.path)
    with_column_twice(shard.path, "product_id")
    with pytest.raises(CellError, match="two columns product_id"):
        decode_cell(decoding.reader, JOB, shard.path, listing.cells[0], decoding.slot, decoding.timing)


def test_the_time_is_the_metadatas_then_the_rows_then_the_products(decoding: Decoding, shard: Shard) -> None:
    lines = write_metadata(shard.path.parent / "m.parquet", [shard], timestamp=["20200203T040506", "n/a"])
    assert decoding.of(shard.path, 0, metadata=lines).record.timestamp == "20200203T040506"
    assert decoding.of(shard.path, 1, metadata=lines).record.timestamp == shard.cells[1].timestamp
    assert any("timestamp 'n/a' is no time" in warning for warning in decoding.timing.warnings)
    retyped(shard.path, {"product_datetime": lambda values: pa.array(["01/02/2020 12:00:00"] * len(values))})
    decoding = Decoding()
    assert decoding.of(shard.path, 1).record.timestamp == shard.cells[1].product_id.split("_")[2]
    assert any("product_datetime '01/02/2020 12:00:00' is no time" in warning for warning in decoding.timing.warnings)


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("s", "No/Zone")])
def test_a_metadata_time_of_arrows_own_type_is_the_same_text(decoding: Decoding, shard: Shard, kind: Any) -> None:
    moments = pa.array([1_577_880_000, 1_577_966_400], pa.timestamp("s")).cast(pa.int64())
    per_second = {"s": 1, "us": 10**6, "ns": 10**9}[kind.unit]
    times = pa.array([n * per_second for n in moments.to_pylist()], kind)
    lines = write_metadata(shard.path.parent / "m.parquet", [shard], timestamp=times)
    found = [decoding.of(shard.path, row, metadata=lines).record.timestamp for row in (0, 1)]
    assert found == ["20200101T120000", "20200102T120000"]


def test_a_shard_that_was_replaced_is_refused_even_while_it_is_open(decoding: Decoding, shard: Shard) -> None:
    listing = listed(shard.path)
    cell, mark = listing.cells[1], listing.fingerprint
    arguments = (decoding.reader, JOB, shard.path, cell, decoding.slot, decoding.timing, mark)
    assert decode_cell(*arguments) is not None
    other = make_shard(shard.path.with_name("other.parquet"), default_cells(2, 64, content="zero"), "S1RTC")
    other.path.replace(shard.path)
    with pytest.raises(CellError, match="replaced while the run lasted") as error:
        decode_cell(*arguments)
    assert error.value.stage == "read"


def test_a_row_group_that_cannot_be_read_costs_no_second_look_at_the_footer(decoding: Decoding, shard: Shard) -> None:
    decoding.of(shard.path)
    with pytest.raises(CellError, match="row group 99"):
        decoding.reader.row(shard.path, 99, BANDS)
    shard.path.unlink()
    assert decoding.reader.row(shard.path, 1, BANDS).num_rows == 1, "the open file was let go"


def test_a_row_that_claims_far_more_than_a_slot_is_not_read(decoding: Decoding, tmp_path: Path) -> None:
    bomb = make_shard(tmp_path / "bomb.parquet", 1, "S1RTC", 64, damage={(0, "vv"): bytes(100 << 20)})
    with pytest.raises(CellError, match="holds 100 MiB, more than the"):
        decoding.of(bomb.path)


def test_a_cell_of_more_fragments_than_its_slot_has_room_for_fails(decoding: Decoding, tmp_path: Path) -> None:
    long = make_shard(tmp_path / "long.parquet", [place(default_cells(1)[0], rows=32, cols=640)], "S1RTC")
    assert len(decoding.of(long.path, job=replace(JOB, dim=64)).record.offsets) > 9
    with pytest.raises(CellError, match="fragments, more than a slot has room for"):
        decoding.of(long.path, job=replace(JOB, dim=512))


def test_each_band_has_its_own_nodata(tmp_path: Path) -> None:
    """As one common tag would give it: in kernel input, which takes NaN for nodata, and in the shares."""

    def filled(value: float) -> Callable[[str, int, int], np.ndarray[Any, Any]]:
        def pixels(band: str, rows: int, cols: int) -> np.ndarray[Any, Any]:
            made = np.full((rows, cols), 0.1, np.float32)
            made[: rows // 2] = value if band == "vh" else 0.1
            return made

        return pixels

    base = place(default_cells(1, 64)[0], content=filled(9999.0))
    vh = geotiff(base, "vh", "S1RTC", nodata=9999.0)
    shard = make_shard(tmp_path / "own.parquet", [base], "S1RTC", damage={(0, "vh"): vh})
    job = replace(JOB, size=64, extras=True)
    decoding = Decoding()
    decoded = decoding.of(shard.path, job=job)
    assert decoded.record.nodata is not None and decoded.record.nodata.tolist() == [0.5]
    assert decoded.nodata_value is None
    planes = decoding.pixels(decoded)
    assert np.isnan(planes[1][:32]).all() and not np.isnan(planes[1][32:]).any() and not np.isnan(planes[0]).any()
    assert any("nodata values of their own" in warning for warning in decoding.timing.warnings)


def test_bands_with_one_nodata_are_left_alone(decoding: Decoding, shard: Shard) -> None:
    decoded = decoding.of(shard.path)
    assert decoded.nodata_value == -32768.0 and not decoding.timing.warnings[1:]


@pytest.mark.parametrize(
    "change",
    [
        {"epsg": 4326},  # metres as degrees
        {"epsg": 4326, "left": 100.0, "top": 91.0, "pixel": 0.1},
        {"epsg": 4326, "left": 179.0, "top": 10.0, "pixel": 0.1},
        {"epsg": 4326, "left": 10.0, "top": 10.0, "pixel": 1e-100},
        {"epsg": 32719, "pixel": 1e-9},
        {"epsg": 32719, "pixel": 5e6},
        {"epsg": 32719, "left": 9e9},
    ],
    ids=str,
)
def test_a_cell_that_is_not_on_earth_fails(decoding: Decoding, tmp_path: Path, change: dict[str, Any]) -> None:
    cell = replace(default_cells(1, 64)[0], **change)
    off = make_shard(tmp_path / "off.parquet", [cell], "S1RTC")
    with pytest.raises(CellError, match="has no outline on Earth") as error:
        decoding.of(off.path)
    assert error.value.stage == "decode"


def test_a_cell_in_degrees_is_as_good_as_one_in_metres(decoding: Decoding, tmp_path: Path) -> None:
    cell = replace(default_cells(1, 64)[0], epsg=4326, left=-71.0, top=-39.0, pixel=1e-4)
    assert decoding.of(make_shard(tmp_path / "degrees.parquet", [cell], "S1RTC").path).record.georeference.epsg == 4326


@pytest.mark.parametrize("source", ["S1RTC", "S2L2A"])
def test_an_ordinary_cell_needs_neither_gdal_nor_proj(tmp_path: Path, source: Source) -> None:
    """Decode workers are many: what GDAL writes for a UTM zone is read without the 40 MiB of these libraries."""
    made = make_shard(tmp_path / "part_1.parquet", 1, source, 96)
    script = f"""
import sys
from pathlib import Path
from mtembed.archive.cell import DecodeJob, decode_cell
from mtembed.archive.reader import ShardReader
from mtembed.ring import Ring, RingShape
from mtembed.types import Cell, CellTiming
job = DecodeJob({source!r}, {BANDS_OF[source]!r}, 32, 0.1, True, False, 1.0, True)
slot = Ring.create(RingShape(1, 1 << 16, 1 << 21)).slot(0)
assert decode_cell(ShardReader(), job, Path({str(made.path)!r}), Cell(0, 0), slot, CellTiming("", 0))
found = {{"rasterio", "pyproj", "shapely"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
