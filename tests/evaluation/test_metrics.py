"""Metrics against scikit-learn's, with weights, and intervals from blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as theirs

from mtembed.evaluation.metrics import Blocks, confusion, distributions, interval


def blocks_of(rng: np.random.Generator, rows: int, count: int = 7) -> Blocks:
    return Blocks.drawn(rng.integers(0, count, rows), 30, 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(5, 60), classes=st.integers(2, 5))
def test_classification_is_as_in_sklearn_for_every_draw_of_blocks(seed: int, rows: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, shares = rng.integers(0, classes, rows), rng.random((rows, classes))
    blocks, said = blocks_of(rng, rows), shares.argmax(axis=1)
    found = distributions("classification", truth, shares, blocks)
    for draw, weights in enumerate(blocks.weights[:6]):
        row = weights[blocks.of_row]
        seen = sorted({*truth[row > 0].tolist(), *said[row > 0].tolist()})
        assert np.isclose(found["accuracy"][draw], theirs.accuracy_score(truth, said, sample_weight=row))
        f1 = theirs.f1_score(truth, said, labels=seen, average="macro", sample_weight=row, zero_division=0)
        assert np.isclose(found["macro_f1"][draw], f1)
        recalls = [(row * (said == k))[truth == k].sum() / row[truth == k].sum() for k in set(truth[row > 0].tolist())]
        assert np.isclose(found["balanced_accuracy"][draw], np.mean(recalls))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(8, 60))
def test_regression_is_as_in_sklearn_for_every_draw_of_blocks(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.round(rng.normal(50, 10, rows))  # with ties
    predicted = truth + rng.normal(0, 5, rows)
    blocks = blocks_of(rng, rows)
    found = distributions("regression", truth, predicted, blocks)
    for draw, weights in enumerate(blocks.weights[:6]):
        row = weights[blocks.of_row]
        if len(np.unique(truth[row > 0])) < 2:
            continue
        assert np.isclose(found["r2"][draw], theirs.r2_score(truth, predicted, sample_weight=row))
        assert np.isclose(found["rmse"][draw], theirs.root_mean_squared_error(truth, predicted, sample_weight=row))
        assert np.isclose(found["mae"][draw], theirs.mean_absolute_error(truth, predicted, sample_weight=row))
        repeated = np.repeat(np.arange(rows), row.astype(int))
        assert np.isclose(found["spearman"][draw], spearmanr(truth[repeated], predicted[repeated])[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(6, 50))
def test_average_precision_is_as_in_sklearn_for_every_draw_of_blocks(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 3)) < 0.4).astype(float)
    score = np.round(rng.random((rows, 3)), 1)  # with ties
    blocks = blocks_of(rng, rows)
    found = distributions("multilabel", truth, score, blocks)
    for draw, weights in enumerate(blocks.weights[:6]):
        row = weights[blocks.of_row]
        there = [k for k in range(3) if (truth[:, k] * row).sum() > 0]
        if not there:
            assert np.isnan(found["macro_map"][draw])
            continue
        each = [theirs.average_precision_score(truth[:, k], score[:, k], sample_weight=row) for k in there]
        assert np.isclose(found["macro_map"][draw], np.mean(each))
        micro = theirs.average_precision_score(truth.ravel(), score.ravel(), sample_weight=np.repeat(row, 3))
        assert np.isclose(found["micro_map"][draw], micro)


def test_intervals_come_from_blocks_not_from_rows() -> None:
    rng = np.random.default_rng(0)
    of_row = np.repeat(np.arange(10), 200)
    truth = rng.normal(size=2000)
    predicted = truth + np.repeat(rng.normal(0, 1, 10), 200)  # a block errs as one
    by_block = distributions("regression", truth, predicted, Blocks.drawn(of_row, 400, 0))["rmse"]
    by_row = distributions("regression", truth, predicted, Blocks.drawn(np.arange(2000), 400, 0))["rmse"]
    wide, narrow = interval(by_block, 10), interval(by_row, 2000)
    assert wide[0] is not None and wide[1] is not None and narrow[0] is not None and narrow[1] is not None
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
    assert wide[0] < by_block[0] < wide[1]


def test_one_block_has_no_interval() -> None:
    blocks = Blocks.drawn(np.zeros(5, int), 50, 0)
    found = distributions("regression", np.arange(5.0), np.arange(5.0), blocks)
    assert found["r2"][0] == pytest.approx(1.0)
    assert interval(found["r2"], blocks.count) == (None, None)


def test_confusion_counts_true_by_row() -> None:
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]
