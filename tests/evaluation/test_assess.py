"""Held-out rows are held out: whatever they hold, nothing that was learned knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtembed.dataset.reader import open_dataset
from mtembed.evaluation.assess import Assessed, assess
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.probes import calm
from tests.tools.embeddings import grid_table, write
from tests.tools.labels import cell_names, known_dataset

ROWS = 144


def assessed(path: Path, vectors: Any, labels: Any, split: list[str]) -> Assessed:
    table = grid_table(vectors, cell_names(), 4, label=labels, split=split)
    options = EvaluateOptions(column="label", split_column="split", shots="all", resamples=20)
    with calm():
        return assess(open_dataset(write(path, table)), options, path.parent, lambda *told: None)


@pytest.mark.parametrize("column", ["number", "word"])
def test_poisoned_test_rows_change_nothing_that_others_are_told(tmp_path: Path, column: str) -> None:
    """Vectors and labels of half the test rows become absurd: every probe still says the same of the other half."""
    known = known_dataset(tmp_path / "data")
    labels = np.array(getattr(known, column), object)
    split = ["train" if (i // 4) % 3 else "test" for i in range(ROWS)]
    test = np.flatnonzero(np.array(split) == "test")
    bad, good = test[::2], test[1::2]
    clean = assessed(tmp_path / "clean.parquet", known.vectors, labels.tolist(), split)
    vectors = known.vectors.copy()
    vectors[bad] = 1e6
    labels[bad] = 1e6 if column == "number" else "forest"
    poisoned = assessed(tmp_path / "poisoned.parquet", vectors, labels.tolist(), split)
    compared = 0
    for outcome in (one for one in clean.outcomes if one.split == "column" and one.features != "permuted"):
        other = poisoned.find(outcome.features, outcome.probe, "column")
        assert other is not None and (outcome.test == other.test).all() and outcome.penalties == other.penalties
        mine = np.isin(outcome.test, good)
        assert (outcome.predicted[mine] == other.predicted[mine]).all(), (outcome.features, outcome.probe)
        compared += 1
    assert compared >= 11
