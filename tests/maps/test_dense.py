"""``mtembed pca`` of maps of vectors: a pixel for each vector, at its place, in the colours that numpy finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

import mtembed
from mtembed.dataset.maps import maps
from mtembed.dataset.reader import open_dataset
from mtembed.errors import UsageError
from mtembed.maps.basis import read_basis
from mtembed.maps.pca import side_by_side
from tests.tools.commands import ROOT, leftovers

SAMPLE = ROOT / "mtembed" / "sample" / "places"
FRAGMENT, SIDE = 96, 12  # px; vectors of 8 px


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of the first place, by the network that ships with mtembed."""
    output = tmp_path_factory.mktemp("dense") / "out"
    options = {"output": str(output), "fragment_size": FRAGMENT, "limit": 1, "dense": True, "device": "cpu"}
    summary = mtembed.embed(SAMPLE, model="galileo-nano", **options)
    assert summary.failed == 0
    return output


def test_every_vector_is_a_pixel_in_its_colour(dense: Path, tmp_path: Path) -> None:
    result = mtembed.pca(dense, tmp_path / "pca")
    table = pq.read_table(dense / "embeddings")
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().astype(np.float64).reshape(-1, result.dim)
    assert (result.maps, result.n, result.rows) == (table.num_rows, len(vectors), len(vectors))
    _, _, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    sines = np.linalg.svd(axes[:3] - axes[:3] @ result.components.T @ result.components, compute_uv=False)
    assert sines.max() < 1e-4
    assert np.ptp(result.channel_means) < 0.5
    basis, colouring = read_basis(tmp_path / "pca" / "pca.json")
    for one in maps(open_dataset(dense, maps=True)):
        colours = colouring.colours(basis.scores(one.values.reshape(-1, result.dim))).reshape(SIDE, SIDE, 3)
        with rasterio.open(tmp_path / "pca" / f"{one.name}.tif") as file:
            np.testing.assert_array_equal(file.read().transpose(1, 2, 0)[..., :3], colours)
            assert (file.read(4) == 255).all() and tuple(file.transform)[:6] == one.transform
            assert file.crs.to_string() == one.crs and file.tags()["grid_cell"] == one.tags["grid_cell"]
    assert leftovers(tmp_path / "pca") == []


def test_the_same_again_a_basis_and_what_is_refused(dense: Path, tmp_path: Path) -> None:
    first = mtembed.pca(dense, tmp_path / "pca")
    assert mtembed.pca(dense, tmp_path / "pca").nothing_to_do
    again = mtembed.pca(dense, tmp_path / "again", basis=tmp_path / "pca" / "pca.json")
    for path in (tmp_path / "pca").glob("*.tif"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert json.loads((tmp_path / "again" / "pca.json").read_text())["mean"] == first.mean.tolist()
    with pytest.raises(UsageError, match="a picture each"):
        side_by_side([("a", first), ("b", again)], tmp_path / "both.png")
