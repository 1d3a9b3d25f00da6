"""Maps of vectors: what is in them, where they are, that everything else of the program knows what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch

from mtembed import embed, models
from mtembed.check.verify import verify
from mtembed.config import RunConfig
from mtembed.conversion.geotiff import geotiffs
from mtembed.dataset.reader import open_dataset
from mtembed.errors import UsageError
from mtembed.run.dryrun import estimate
from mtembed.run.plan import plan
from mtembed.types import MapLayout, Weights
from tests.models.parity.small_networks import PARITY, error, image
from tests.tools.shards import ShardCell, make_shard

SIDE, PIXEL = 96, 10.0
BRIGHT = (43, 67)  # row and column of a cell's one bright pixel


def flat(band: str, rows: int, cols: int) -> npt.NDArray[Any]:
    return np.full((rows, cols), 1200)


def dotted(band: str, rows: int, cols: int) -> npt.NDArray[Any]:
    """A flat cell with one bright place, in every band at its own resolution."""
    pixels, factor = flat(band, rows, cols), SIDE // rows
    pixels[BRIGHT[0] // factor, BRIGHT[1] // factor] = 9000
    return pixels


@dataclass(frozen=True)
class Made:
    """A finished dense dataset, and the cell that it is of."""

    root: Path
    shard: Path
    cell: ShardCell

    def table(self) -> Any:
        return pq.read_table(self.root / "embeddings" / "part_00001.parquet")


def made(folder: Path, model: str, **options: Any) -> Made:
    cell = ShardCell(rows=SIDE, cols=SIDE, content=dotted)
    cells = [cell, ShardCell(grid_cell="1U_1R", rows=SIDE, cols=SIDE, content=flat)]
    shard = make_shard(folder / "images" / "part_00001.parquet", cells)
    fixed = {"weights": "random:3", "device": "cpu", "precision": "fp32", "workers": 1, "dense": True}
    embed(shard.path, model=model, output=str(folder / "out"), **fixed, **options)
    return Made(folder / "out", shard.path, cell)


@pytest.fixture(scope="module")
def mmearth(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("mmearth"), "mmearth")


@pytest.fixture(scope="module")
def galileo(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("galileo"), "galileo-nano", fragment_size=40)


# Networks


@pytest.mark.parametrize("name", ["mmearth", "galileo-nano", "terramind-small"])
def test_the_mean_of_a_map_is_the_vector(name: str) -> None:
    spec = models.get(name)
    x = image(spec, size=spec.size)
    with torch.inference_mode():
        vectors = spec.build(Weights("random:1", "", None, 1))(x)
        maps = models.mapped(spec, spec.size).build(Weights("random:1", "", None, 1))(x)
    shape = models.mapped(spec, spec.size).shape
    assert shape and maps.shape == (2, shape.rows * shape.cols * spec.dim)
    assert error(maps.reshape(2, -1, spec.dim).mean(1), vectors) < PARITY


def test_how_many_vectors_a_map_has() -> None:
    layout = MapLayout(step=8, origin=1, trim=2)
    assert [layout.count(size) for size in (10, 56, 264, 1056, 1068)] == [1, 6, 32, 131, 133]
    assert layout.covered(1068) == 1064
    assert MapLayout(16).count(224) == 14


def test_a_model_without_maps_says_so() -> None:
    with pytest.raises(UsageError, match=r"rcf has no map of vectors: leave out --dense"):
        models.mapped(models.get("rcf"), 96)


# Datasets


@pytest.mark.parametrize(("which", "shape", "rows"), [("mmearth", (11, 11, 320), 2), ("galileo", (5, 5, 128), 18)])
def test_the_shape_stands_in_the_field(which: str, shape: Any, rows: int, request: pytest.FixtureRequest) -> None:
    dataset: Made = request.getfixturevalue(which)
    table = dataset.table()
    field = table.schema.field("embedding")
    assert json.loads(field.metadata[b"mtembed.shape"]) == list(shape)
    assert str(field.type.value_type) == "halffloat" and field.type.list_size == np.prod(shape)
    assert table.num_rows == rows
    assert "map of" in (dataset.root / "README.md").read_text()


@pytest.mark.parametrize("which", ["mmearth", "galileo"])
def test_verify_finds_everything_right(which: str, request: pytest.FixtureRequest) -> None:
    dataset: Made = request.getfixturevalue(which)
    assert not verify(dataset.root, [dataset.shard]).problems


def test_verify_finds_a_map_that_lies_elsewhere(mmearth: Made, tmp_path: Path) -> None:
    moved = tmp_path / "out"
    shutil.copytree(mmearth.root, moved)
    table = mmearth.table()
    values = table["dense_transform"].combine_chunks().flatten().to_numpy().copy()
    values[2] += 10
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 6)
    place = table.schema.get_field_index("dense_transform")
    pq.write_table(table.set_column(place, table.schema.field(place), column), moved / "embeddings/part_00001.parquet")
    assert "dense_transform is not at utm_footprint" in str(verify(moved).problems)


@pytest.mark.parametrize("which", ["mmearth", "galileo"])
def test_the_bright_pixel_is_where_the_map_says(which: str, request: pytest.FixtureRequest) -> None:
    """The vector that differs most from that of a flat cell is the one whose square on the ground holds the pixel."""
    dataset: Made = request.getfixturevalue(which)
    table, found = dataset.table(), 0
    shape = json.loads(table.schema.field("embedding").metadata[b"mtembed.shape"])
    x = dataset.cell.left + (BRIGHT[1] + 0.5) * PIXEL
    y = dataset.cell.top - (BRIGHT[0] + 0.5) * PIXEL
    rows = table.to_pylist()
    for bright, plain in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
        assert bright["dense_transform"] == plain["dense_transform"]
        col, line = (int(np.floor(value)) for value in ~rasterio.Affine(*bright["dense_transform"]) @ (x, y))
        if 0 <= col < shape[1] and 0 <= line < shape[0]:
            one, other = (np.array(row["embedding"], np.float32).reshape(shape) for row in (bright, plain))
            away = np.linalg.norm(one - other, axis=2)
            assert np.unravel_index(away.argmax(), away.shape) == (line, col)
            found += 1
    assert found


def test_the_map_of_mmearth_covers_what_its_vectors_see(mmearth: Made) -> None:
    row = mmearth.table().to_pylist()[0]
    assert row["pixel_bbox"] == [1, 1, 89, 89]
    left, top = mmearth.cell.left + PIXEL, mmearth.cell.top - PIXEL
    assert row["dense_transform"] == [80.0, 0.0, left, 0.0, -80.0, top]
    assert row["utm_footprint"].startswith("POLYGON") and f"{left} {top}" in row["utm_footprint"]


# What others make of it


def test_every_map_becomes_a_geotiff(galileo: Made, tmp_path: Path) -> None:
    result = geotiffs(str(galileo.root), tmp_path / "tif")
    files = sorted((tmp_path / "tif").glob("*.tif"))
    rows = galileo.table().to_pylist()
    assert result.files == len(files) == len(rows) and not result.nothing_to_do
    for path, row in zip(files, rows, strict=True):
        with rasterio.open(path) as file:
            assert list(file.transform)[:6] == row["dense_transform"] and file.crs == rasterio.CRS.from_string(
                row["utm_crs"]
            )
            assert np.array_equal(file.read().transpose(1, 2, 0).ravel(), np.array(row["embedding"], np.float32))
            assert file.tags()["unique_id"] == row["unique_id"]
    files[3].unlink()
    assert geotiffs(str(galileo.root), tmp_path / "tif").files == len(rows) and files[3].exists()
    assert geotiffs(str(galileo.root), tmp_path / "tif").nothing_to_do


def test_commands_for_vectors_refuse_maps_and_the_other_way_round(galileo: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds maps and not vectors .*convert --to geotiff"):
        open_dataset(str(galileo.root))
    shard = make_shard(tmp_path / "images" / "part_00001.parquet", 1, side=24)
    embed(shard.path, model="bands-l1c", fragment_size=24, output=str(tmp_path / "out"), device="cpu", workers=1)
    with pytest.raises(UsageError, match=r"holds no maps: make them with --dense"):
        geotiffs(str(tmp_path / "out"), tmp_path / "tif")


def test_a_dry_run_says_what_maps_cost(galileo: Made, tmp_path: Path) -> None:
    config = RunConfig.of(str(galileo.shard), model="mmearth", weights="random:1", dense=True, device="cpu",
                          output=str(tmp_path / "out"))  # fmt: skip
    found = estimate(plan(config), trial=lambda *_: 2.0)
    assert found.fragments_per_cell == 1
    assert 2 * 11 * 11 * 320 * 2 < found.output_bytes < 2 * 11 * 11 * 320 * 2 + 100_000
    assert "maps:    2 to compute, 1 a cell" in found.text()
