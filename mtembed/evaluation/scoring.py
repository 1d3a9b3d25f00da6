"""Every feature set through every probe over every split: predictions of rows that were held out, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.evaluation import probes
from mtembed.evaluation.groups import Fold, Split
from mtembed.evaluation.metrics import METRICS, Blocks, Floats, distributions, interval
from mtembed.evaluation.options import CONSTANT, EMBEDDING, EvaluateOptions
from mtembed.evaluation.splits import Plan
from mtembed.evaluation.target import Target
from mtembed.machine import cores
from mtembed.types import FloatArray, Tick

MAIN_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a probe sees: float32 [n, D], or None for nothing; ``permuted``: all labels are shuffled, also those that
    predictions are scored against, so that what is expected is exactly chance."""

    name: str
    vectors: FloatArray | None
    permuted: bool = False

    def target(self, whole: Target, seed: int) -> Target:
        """The labels of all rows that probes of these features learn, and are scored by."""
        if not self.permuted:
            return whole
        return whole.rows(np.random.default_rng([seed, 23]).permutation(len(whole.values)))


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the result; ``low`` and ``high`` are the 95 % interval over blocks, None where it cannot be had."""

    features: str
    probe: str
    split: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n_train: int
    n_test: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Predictions of held-out rows, all folds together: ``test`` int64 [m] positions, ``predicted`` [m, K] or [m].

    ``spread`` holds each metric's value and its draws, float64 [1 + B].
    """

    features: str
    probe: str
    split: str
    test: npt.NDArray[np.int64]
    predicted: Floats
    spread: dict[str, Floats]
    blocks: int
    n_train: int
    penalties: tuple[float, ...] = ()

    def scores(self) -> list[Score]:
        found = []
        for metric, values in self.spread.items():
            low, high = interval(values, self.blocks)
            found.append(
                Score(self.features, self.probe, self.split, metric, float(values[0]), low, high, self.n_train,
                      len(self.test), self.blocks)
            )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one probe on one fold."""

    probe: str
    values: Floats
    penalty: float | None = None


def outcomes(plan: Plan, features: Sequence[Features], options: EvaluateOptions, tick: Tick) -> list[Outcome]:
    """Of every split, feature set and probe, in this order."""
    jobs = [(split, one, fold) for split in plan.splits for one in features for fold in range(len(split.folds))]
    work = [lambda job=job: _fold(plan, job[0], job[1], job[2], options) for job in jobs]
    predicted = side_by_side(work, "probing", tick)
    found: list[Outcome] = []
    for split in plan.splits:
        for one in features:
            mine = [said for job, said in zip(jobs, predicted, strict=True) if job[0] is split and job[1] is one]
            found += _together(plan, split, one, mine, options)
    return found


def side_by_side(work: Sequence[Callable[[], Any]], stage: str, tick: Tick) -> list[Any]:
    """Results in order, from one thread per processor."""
    done: list[Any] = []
    with ThreadPoolExecutor(max(1, min(cores(), len(work)))) as pool:
        for result in pool.map(lambda job: job(), work):
            done.append(result)
            tick(stage, len(done), len(work))
    return done


def _fold(plan: Plan, split: Split, features: Features, number: int, options: EvaluateOptions) -> list[Prediction]:
    """Every probe trained on a fold's training rows, asked about its test rows."""
    fold, target = split.folds[number], features.target(plan.rows.target, options.seed)
    if features.vectors is None:
        return [Prediction(CONSTANT, _constant(target.rows(fold.train), len(fold.test)))]
    return list(_probed(features, fold, target.rows(fold.train), split.groups[fold.train], options))


def _probed(
    features: Features, fold: Fold, known: Target, groups: npt.NDArray[np.int64], options: EvaluateOptions
) -> Iterator[Prediction]:
    assert features.vectors is not None
    train, test = features.vectors[fold.train], features.vectors[fold.test]
    whole = features.name == EMBEDDING
    if "linear" in options.probe_names:
        line = probes.linear(train, known, groups, options.seed)
        yield Prediction("linear", line(test), line.penalty)
    if "knn" in options.probe_names:
        counts = options.neighbour_counts if whole else (main_neighbours(options),)
        near = probes.neighbours(train, known, counts[-1])
        for k, values in near.each(test, counts).items():
            yield Prediction(f"knn-{k}", values)
        if whole:
            for k, values in replace(near, metric="cosine").each(test, counts).items():
                yield Prediction(f"knn-{k}-cosine", values)


def main_neighbours(options: EvaluateOptions) -> int:
    """The k that baselines get, and that sentences speak of."""
    counts = options.neighbour_counts
    return MAIN_NEIGHBOURS if MAIN_NEIGHBOURS in counts else counts[-1]


def _constant(known: Target, count: int) -> Floats:
    """The training rows' mean, or their shares of classes."""
    if known.task == "classification":
        mean = np.bincount(known.values, minlength=len(known.classes)) / len(known.values)
    else:
        mean = np.asarray(known.values.mean(axis=0))
    return np.broadcast_to(mean, (count, *mean.shape)).astype(np.float64)


def _together(
    plan: Plan, split: Split, features: Features, folds: Sequence[Sequence[Prediction]], options: EvaluateOptions
) -> Iterator[Outcome]:
    """Folds' predictions joined, and scored once over all rows."""
    test = np.concatenate([fold.test for fold in split.folds])
    n_train = round(float(np.mean([len(fold.train) for fold in split.folds])))
    for several in zip(*folds, strict=True):
        values = np.concatenate([one.values for one in several])
        blocks, spread = scored(plan, features, test, values, options)
        penalties = tuple(one.penalty for one in several if one.penalty is not None)
        yield Outcome(
            features.name, several[0].probe, split.name, test, values, spread, blocks.count, n_train, penalties
        )


def scored(
    plan: Plan, features: Features, test: npt.NDArray[np.int64], values: Floats, options: EvaluateOptions
) -> tuple[Blocks, dict[str, Floats]]:
    """The same blocks are drawn for all that is compared: the draws depend on the test rows and the seed alone."""
    blocks = Blocks.drawn(plan.blocks[test], options.resamples, options.seed)
    target = features.target(plan.rows.target, options.seed)
    found = distributions(target.task, target.values[test], values, blocks)
    return blocks, {metric: found[metric] for metric in METRICS[target.task]}


# -- few labels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shots:
    """The main split with few training labels: mean over draws, and the draws' 2.5 and 97.5 percentiles."""

    features: str
    probe: str
    split: str
    metric: str
    shots: int
    draws: int
    value: float
    low: float
    high: float


def few_shots(plan: Plan, features: Sequence[Features], options: EvaluateOptions, tick: Tick) -> list[Shots]:
    """For each number of labels below all of them (per class; in all for regression), drawn anew for each fold."""
    split, probe = plan.splits[0], "linear" if "linear" in options.probe_names else "knn-1"
    counts = [count for count in options.shot_counts if count < _most(plan, split)]
    seen = [one for one in features if one.vectors is not None]
    jobs = [(one, count, draw) for one in seen for count in counts for draw in range(options.draws)]
    work = [lambda job=job: _drawn(plan, split, job[0], job[1], job[2], probe, options) for job in jobs]
    scores = side_by_side(work, "few labels", tick) if work else []
    found = []
    for one in seen:
        for count in counts:
            mine = [score for job, score in zip(jobs, scores, strict=True) if job[0] is one and job[1] == count]
            for metric in METRICS[plan.rows.target.task]:
                values = np.array([score[metric] for score in mine])
                low, high = np.percentile(values, (2.5, 97.5))
                found.append(
                    Shots(one.name, probe, split.name, metric, count, options.draws, float(values.mean()), float(low),
                          float(high))
                )  # fmt: skip
    return found


def _most(plan: Plan, split: Split) -> int:
    """Labels (of a class) that the smallest training set has: from there on, few would be all."""
    target = plan.rows.target
    if target.task != "classification":
        return min(len(fold.train) for fold in split.folds)
    return int(max(np.bincount(target.values[fold.train]).max() for fold in split.folds))


def _drawn(
    plan: Plan, split: Split, features: Features, count: int, draw: int, probe: str, options: EvaluateOptions
) -> dict[str, float]:
    assert features.vectors is not None
    target, values = plan.rows.target, []
    for number, fold in enumerate(split.folds):
        rng = np.random.default_rng([options.seed, 29, count, draw, number])
        train = _sample(fold.train, target, count, rng)
        known = target.rows(train)
        model: Any
        if probe == "linear":
            model = probes.few(features.vectors[train], known)
        else:
            model = probes.neighbours(features.vectors[train], known, 1)
        values.append(model(features.vectors[fold.test]))
    test = np.concatenate([fold.test for fold in split.folds])
    once = Blocks(np.zeros(len(test), np.int64), np.ones((1, 1)))
    spread = distributions(target.task, target.values[test], np.concatenate(values), once)
    return {metric: float(found[0]) for metric, found in spread.items()}


def _sample(
    train: npt.NDArray[np.int64], target: Target, count: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    if target.task != "classification":
        return np.sort(rng.choice(train, min(count, len(train)), replace=False))
    of_class = [train[target.values[train] == k] for k in range(len(target.classes))]
    chosen = [rng.choice(mine, min(count, len(mine)), replace=False) for mine in of_class if len(mine)]
    return np.sort(np.concatenate(chosen))
