"""Figures measured before on real labels and embeddings: the same come out, by the same folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score, root_mean_squared_error

from mtembed.dataset.reader import open_dataset
from mtembed.evaluation import agreement, geometry, health, probes
from mtembed.evaluation.groups import folds_of
from mtembed.evaluation.target import Target, encode

Ints = npt.NDArray[np.int64]


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with probes.calm():
        yield


def columns(path: Path, *names: str) -> dict[str, Any]:
    table = pq.read_table(path, columns=list(names))
    found = {name: table[name].to_pylist() for name in names}
    return {name: np.array(values, np.float32) if "embedding" in name else values for name, values in found.items()}


@pytest.fixture(scope="module")
def moisture(shared: Path) -> dict[str, Any]:
    """Live fuel moisture of 2,313 points at 150 sites, with Presto's vectors."""
    path = shared / "eval/embeddings/lfmc_presto.parquet"
    return columns(path, "embedding", "lfmc_percent", "split", "site", "centre_lat", "centre_lon")


@pytest.fixture(scope="module")
def tiles(shared: Path) -> dict[str, Any]:
    """245 tiles of five places with land cover."""
    path = shared / "eval/embeddings/terramind_tiles32_galileo_nano.parquet"
    return columns(path, "embedding", "embedding_s1", "lulc_majority", "ndvi_mean", "chip")


def numbered(values: Any) -> Ints:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def held_out(vectors: Any, target: Target, groups: Ints, classes: Ints | None, make: Any) -> Any:
    """Predictions of every row, by five folds of the groups."""
    found: dict[int, Any] = {}
    for fold in folds_of(groups, classes, 5, 0):
        model = make(vectors[fold.train], target.rows(fold.train), groups[fold.train])
        found |= dict(zip(fold.test.tolist(), model(vectors[fold.test]), strict=True))
    return np.array([found[i] for i in range(len(vectors))])


def test_moisture_by_the_official_split(moisture: dict[str, Any]) -> None:
    """Ridge 26.91 with the penalty of least leave-one-out error, and better with one chosen by places; mean 36.90."""
    truth = np.array(moisture["lfmc_percent"])
    train = np.array(moisture["split"]) == "train"
    target = encode(truth.tolist(), "auto", "lfmc")
    assert target.task == "regression" and (train.sum(), (~train).sum()) == (1578, 735)
    vectors = moisture["embedding"]
    scaled = probes.Scaler.fitted(vectors[train])(vectors[train]).astype(np.float64)
    alpha = RidgeCV(np.logspace(-3, 4, 15)).fit(scaled, truth[train]).alpha_
    rows = np.flatnonzero(train)
    loose = probes.linear(vectors[train], target.rows(rows), rows, 0, penalty=float(alpha))
    assert root_mean_squared_error(truth[~train], loose(vectors[~train])) == pytest.approx(26.91, abs=0.3)
    by_site = numbered(moisture["site"])[train]
    strict = probes.linear(vectors[train], target.rows(rows), by_site, 0)
    assert root_mean_squared_error(truth[~train], strict(vectors[~train])) < 26
    mean = np.full((~train).sum(), truth[train].mean())
    assert root_mean_squared_error(truth[~train], mean) == pytest.approx(36.90, abs=0.01)


def test_moisture_by_random_rows_flatters(moisture: dict[str, Any]) -> None:
    """kNN, k = 5: R2 0.682 at random, 0.396 by site, 0.322 by blocks of two degrees."""
    truth = np.array(moisture["lfmc_percent"])
    target = encode(truth.tolist(), "auto", "lfmc")
    lat, lon = (np.array(moisture[name]) for name in ("centre_lat", "centre_lon"))
    groups = {
        0.682: np.arange(len(truth)),
        0.396: numbered(moisture["site"]),
        0.322: numbered(np.floor(lat / 2) * 1000 + np.floor(lon / 2)),
    }
    scores = []
    for expected, group in groups.items():
        said = held_out(moisture["embedding"], target, group, None, lambda x, y, g: probes.neighbours(x, y, 5))
        scores.append(float(r2_score(truth, said)))
        assert scores[-1] == pytest.approx(expected, abs=0.03)
    assert 0.2 < scores[0] - scores[2] == pytest.approx(0.36, abs=0.05)


@pytest.mark.parametrize(
    ("column", "at_random", "chip_out"), [("embedding", 0.880, 0.298), ("embedding_s1", 0.809, 0.196)]
)
def test_land_cover_of_tiles(tiles: dict[str, Any], column: str, at_random: float, chip_out: float) -> None:
    """Logistic probe, C = 1, balanced accuracy over the four classes that two places or more have."""
    cover = np.array(tiles["lulc_majority"])
    rows = np.flatnonzero(np.isin(cover, [1, 2, 4, 9]))
    target = encode(cover[rows].tolist(), "auto", "lulc")
    vectors, chips = tiles[column][rows], numbered(tiles["chip"])[rows]
    assert len(rows) == 184 and target.task == "classification"

    def make(x: Any, y: Target, g: Ints) -> probes.Linear:
        return probes.linear(x, y, g, 0, penalty=1.0)

    for expected, groups, classes in ((at_random, np.arange(184), target.values), (chip_out, chips, None)):
        said = held_out(vectors, target, groups, classes, make).argmax(axis=1)
        assert balanced_accuracy_score(target.values, said) == pytest.approx(expected, abs=0.03)


def test_vegetation_index_of_tiles(tiles: dict[str, Any]) -> None:
    truth = np.array(tiles["ndvi_mean"])
    target = encode(truth.tolist(), "auto", "ndvi")
    said = held_out(tiles["embedding"], target, np.arange(245), None, lambda x, y, g: probes.linear(x, y, g, 0))
    assert r2_score(truth, said) == pytest.approx(0.997, abs=0.01)


def test_shape_of_tiles_without_labels(shared: Path, tiles: dict[str, Any]) -> None:
    golden = np.load(shared / "eval/golden/galileo_nano_terramind_tiles32.npz")
    assert geometry.rankme(tiles["embedding"]) == pytest.approx(18.4, abs=0.1)
    assert geometry.rankme(tiles["embedding_s1"]) == pytest.approx(12.3, abs=0.1)
    assert geometry.two_nn(tiles["embedding"])[0] == pytest.approx(7.1, abs=0.2)
    assert geometry.linear_cka(golden["s2l2a"], golden["s2l1c"]) == pytest.approx(0.898, abs=0.002)
    assert geometry.linear_cka(golden["s2l2a"], golden["s1"]) == pytest.approx(0.493, abs=0.002)
    across = agreement.compared(golden["s2l2a"], golden["s2l1c"])
    assert across["retrieval_1"] == pytest.approx(0.40, abs=0.03)
    assert agreement.compared(golden["s2l2a"], golden["s1"])["retrieval_1"] == pytest.approx(0.012, abs=0.009)
    path = shared / "eval/embeddings/terramind_tiles32_galileo_nano.parquet"
    found = health.of_dataset(open_dataset(path), 0, lambda stage, done, total: None)
    assert found["moran_fragments"] == pytest.approx(0.975, abs=0.01)
