"""Probes see training rows only, and find what is there to be found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from mtembed.evaluation import probes
from mtembed.evaluation.target import Target, encode


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with probes.calm():
        yield


def cloud(rows: int = 120, dim: int = 10, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, dim)) * rng.uniform(0.5, 20, dim) + 7).astype(np.float32)


def targets(vectors: npt.NDArray[np.float32]) -> dict[str, Target]:
    x = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    several = [[name for name, value in zip("abc", row, strict=True) if value > 0] for row in x[:, :3]]
    return {
        "regression": encode((x @ np.arange(x.shape[1]) + 0.5).tolist(), "regression", "y"),
        "classification": encode(x[:, :3].argmax(axis=1).tolist(), "classification", "y"),
        "multilabel": encode(several, "multilabel", "y"),
    }


@pytest.mark.parametrize("task", ["regression", "classification", "multilabel"])
def test_what_is_linear_in_the_vectors_is_found(task: str) -> None:
    vectors = cloud(400)
    target, groups = targets(vectors)[task], np.arange(400) // 10
    model = probes.linear(vectors[:300], target.rows(np.arange(300)), groups[:300], 0)
    said, truth = model(vectors[300:]), target.values[300:]
    if task == "regression":
        assert 1 - ((said - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() > 0.999
    elif task == "classification":
        assert (said.argmax(axis=1) == truth).mean() > 0.93
        assert np.allclose(said.sum(axis=1), 1)
    else:
        assert ((said > 0.5) == truth).mean() > 0.93


@pytest.mark.parametrize("task", ["regression", "classification", "multilabel"])
def test_rows_that_are_asked_about_change_nothing(task: str) -> None:
    """The answer about a row does not depend on the others, however far off they are."""
    vectors = cloud(200)
    target, groups = targets(vectors)[task].rows(np.arange(150)), np.arange(150) // 10
    poisoned = vectors.copy()
    poisoned[160:] = 1e6
    for make in (
        lambda: probes.linear(vectors[:150], target, groups, 0),
        lambda: probes.neighbours(vectors[:150], target, 5),
        lambda: probes.neighbours(vectors[:150], target, 5, "cosine"),
    ):
        model = make()
        assert (model(vectors[150:])[:10] == model(poisoned[150:])[:10]).all()


def test_linear_probes_are_sklearn_s() -> None:
    vectors = cloud()
    train, test = vectors[:90], vectors[90:]
    scaler = StandardScaler().fit(train.astype(np.float64))
    x, z = scaler.transform(train.astype(np.float64)), scaler.transform(test.astype(np.float64))
    found = targets(vectors)
    number, word = found["regression"].rows(np.arange(90)), found["classification"].rows(np.arange(90))
    ours = probes.linear(train, number, np.arange(90), 0, penalty=10.0)(test)
    assert np.allclose(ours, Ridge(alpha=10.0).fit(x, number.values).predict(z), rtol=1e-4)
    shares = probes.linear(train, word, np.arange(90), 0, penalty=1.0)(test)
    theirs = LogisticRegression(C=1.0, max_iter=2000).fit(x, word.values).predict_proba(z)
    assert np.allclose(shares, theirs, atol=0.01)


def test_neighbours_are_sklearn_s() -> None:
    vectors = cloud()
    train, test = vectors[:90], vectors[90:]
    scaler = StandardScaler().fit(train)
    x, z = scaler.transform(train), scaler.transform(test)
    found = targets(vectors)
    number, word = found["regression"].rows(np.arange(90)), found["classification"].rows(np.arange(90))
    for k in (1, 5):
        theirs = KNeighborsRegressor(k, algorithm="brute").fit(x, number.values).predict(z)
        assert np.allclose(probes.neighbours(train, number, 5).each(test, (1, 5))[k], theirs)
        shares = KNeighborsClassifier(k, algorithm="brute").fit(x, word.values).predict_proba(z)
        assert np.allclose(probes.neighbours(train, word, 5).each(test, (1, 5))[k], shares)


def test_the_penalty_is_chosen_by_groups_and_by_training_rows() -> None:
    """Groups whose vectors name them: a random inner split would take the weakest penalty, groups take a strong one."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    vectors = rng.normal(size=(20, 60))[groups] + 0.05 * rng.normal(size=(200, 60))
    target = encode((rng.normal(size=20)[groups] + 0.05 * rng.normal(size=200)).tolist(), "regression", "y")
    by_group = probes.linear(vectors.astype(np.float32), target, groups, 0).penalty
    by_row = probes.linear(vectors.astype(np.float32), target, np.arange(200), 0).penalty
    assert by_group > 30 * by_row


def test_dimensions_that_do_not_vary_and_classes_that_are_not_there_are_survived() -> None:
    vectors = cloud()
    target = targets(vectors)["classification"]
    vectors[:, 3] = 5.0
    some = np.flatnonzero(target.values != 2)
    model = probes.linear(vectors[some], target.rows(some), np.arange(len(some)), 0, penalty=1.0)
    moved = vectors.copy()
    moved[:, 3] = 1e9  # never seen to vary: it says nothing
    assert (model(moved) == model(vectors)).all()
    assert model(vectors)[:, 2].max() < 1e-12 and np.isfinite(model(vectors)).all()


@pytest.mark.parametrize("rows", [1, 2, 5, 30])
def test_a_handful_of_labels_is_enough_to_train_on(rows: int) -> None:
    vectors = cloud()
    for target in targets(vectors).values():
        assert np.isfinite(probes.few(vectors[:rows], target.rows(np.arange(rows)))(vectors)).all()
