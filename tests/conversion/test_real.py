"""Forms of real vectors: how many neighbours stay, what a probe loses, how many bytes are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import RidgeCV

from mtembed import convert
from mtembed.dataset.reader import open_dataset
from tests.tools.commands import ROOT

VECTORS = ROOT.parent / "shared" / "eval" / "embeddings"
PRESTO, GALILEO = (VECTORS / f"{name}.parquet" for name in ("lfmc_presto", "terramind_tiles32_galileo_nano"))
KEPT = {"float16": 0.999, "bfloat16": 0.995, "uint8": 0.99, "int8": 0.96}
SHARE = {"float16": 1 / 2, "bfloat16": 1 / 2, "uint8": 1 / 4, "int8": 1 / 4, "bits": 1 / 32}
R2_LOST = 0.02

pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason="no real vectors beside the checkout (../shared/eval)")


def read(path: Path) -> npt.NDArray[np.float64]:
    return np.concatenate([batch.vectors for batch in open_dataset(path).batches(())]).astype(np.float64)


def neighbours(vectors: npt.NDArray[np.float64]) -> list[set[int]]:
    """The ten nearest of each row by cosine, itself left out."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -2)
    return [set(row) for row in np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist()]


@pytest.mark.parametrize("form", KEPT)
@pytest.mark.parametrize("path", [PRESTO, GALILEO], ids=["presto", "galileo"])
def test_neighbours_stay(tmp_path: Path, path: Path, form: str) -> None:
    result = convert(path, tmp_path / "out", to=form)
    before, after = neighbours(read(path)), neighbours(read(tmp_path / "out"))
    kept = np.mean([len(a & b) / 10 for a, b in zip(before, after, strict=True)])
    assert kept >= KEPT[form]
    assert result.recall_at_10 == pytest.approx(kept, abs=0.01)  # of a sample


@pytest.mark.parametrize("form", ["float16", "uint8", "int8"])
def test_a_probe_loses_little(tmp_path: Path, form: str) -> None:
    """Live fuel moisture by ridge regression on the official split."""
    table = pq.read_table(PRESTO)
    target, test = table["lfmc_percent"].to_numpy(), np.array(table["split"].to_pylist()) == "test"
    convert(PRESTO, tmp_path / "out", to=form)

    def r2(vectors: npt.NDArray[np.float64]) -> float:
        probe = RidgeCV(np.logspace(-3, 5, 17)).fit(vectors[~test], target[~test])
        return float(probe.score(vectors[test], target[test]))

    assert abs(r2(read(tmp_path / "out")) - r2(read(PRESTO))) <= R2_LOST


@pytest.mark.parametrize("form", SHARE)
def test_bytes_are_what_the_form_says(tmp_path: Path, form: str) -> None:
    convert(PRESTO, tmp_path / "out", to=f"array:{form}")
    whole = read(PRESTO).size * 4
    assert (tmp_path / "out" / "embeddings.bin").stat().st_size == pytest.approx(whole * SHARE[form], rel=0.02)
