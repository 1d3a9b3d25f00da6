"""The command's vectors equal a plain script's (``independent.py``) that shares no code with it: relative L2 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtembed.run.embed import embed
from tests.tools import independent

SAMPLE = Path(__file__).resolve().parents[2] / "mtembed" / "sample"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("model", "source", "fragments"), [("ssl4eo-s2", "S2L1C", 25), ("ssl4eo-s1", "S1RTC", 25), ("dinov2", "S2L2A", 6)]
)
def test_real_pixels_give_the_same_vectors(model: str, source: str, fragments: int, tmp_path: Path) -> None:
    shard = SAMPLE / f"Core-{source}/images/part_00001.parquet"
    result = embed(shard, model=model, weights="random:1", precision="fp32", output=str(tmp_path / "out"))
    assert result.exit_code == 0
    found = np.array(pq.read_table(tmp_path / "out/embeddings/part_00001.parquet")["embedding"].to_pylist())
    assert found.shape[0] == 25
    expected = independent.embed(shard, 0, model, independent.network(model, 1), fragments)
    error = np.linalg.norm(found[:fragments] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-5


def test_damaged_and_odd_shards_run_through(shared: Path, tmp_path: Path) -> None:
    """Every cell is embedded or listed with its reason."""
    optical = embed(shared / "data/Core-S2L2A/images/part_00002.parquet", model="rcf", output=str(tmp_path / "s2"))
    assert (optical.exit_code, optical.cells, optical.failed) == (3, 5, 1)
    assert "band B03" in (tmp_path / "s2/failures.jsonl").read_text()
    radar = embed(shared / "data/Core-S1RTC/images/part_00002.parquet", model="rcf", output=str(tmp_path / "s1"))
    assert (radar.exit_code, radar.cells, radar.failed) == (0, 5, 0)
    for folder in ("s1", "s2"):
        vectors = pq.read_table(tmp_path / folder / "embeddings/part_00002.parquet")["embedding"].to_pylist()
        assert np.isfinite(np.array(vectors)).all()
