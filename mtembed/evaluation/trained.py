"""A probe to be used elsewhere: trained on all labelled rows, with what its held-out scores said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.evaluation import probes
from mtembed.evaluation.assess import Assessed
from mtembed.evaluation.metrics import METRICS, interval
from mtembed.evaluation.options import EMBEDDING, EvaluateOptions
from mtembed.evaluation.probes import Linear, Neighbours
from mtembed.evaluation.scoring import main_neighbours

RESIDUALS = (5.0, 95.0)  # percentiles of held-out residuals: the interval of a prediction holds 90 %


@dataclass(frozen=True, slots=True, eq=False)
class TrainedProbe:
    """A model and what it is for.

    ``column`` is the label, ``embedding_model`` the model of the vectors where it is known, ``rows`` how many it was
    trained on, ``metric``, ``value``, ``low``, ``high`` and ``split`` its held-out score.  ``residuals`` is what to add
    to a number for the two ends of its 90 % interval.
    """

    model: Linear | Neighbours
    classes: tuple[str, ...]
    column: str
    dim: int
    embedding_model: str | None
    rows: int
    split: str
    metric: str
    value: float
    low: float | None
    high: float | None
    residuals: tuple[float, float] | None

    @property
    def task(self) -> str:
        return self.model.task if isinstance(self.model, Linear) else self.model.target.task


def on_all_rows(one: Assessed, dataset: EmbeddingDataset, options: EvaluateOptions) -> TrainedProbe:
    """The linear probe, or kNN where only that was asked for; its score is of places held out wherever there is one."""
    rows, target = one.plan.rows, one.plan.rows.target
    split = next((s for s in one.plan.splits if s.name != "random"), one.plan.splits[0])
    name = "linear" if "linear" in options.probe_names else f"knn-{main_neighbours(options)}"
    outcome = one.find(EMBEDDING, name, split.name)
    assert outcome is not None
    model: Linear | Neighbours
    if name == "linear":
        model = probes.linear(rows.vectors, target, split.groups, options.seed)
    else:
        model = probes.neighbours(rows.vectors, target, main_neighbours(options))
    residuals = None
    if target.task == "regression":
        low, high = np.percentile(target.values[outcome.test] - outcome.predicted, RESIDUALS)
        residuals = float(low), float(high)
    metric = METRICS[target.task][0]
    low_score, high_score = interval(outcome.spread[metric], outcome.blocks)
    return TrainedProbe(
        model=model,
        classes=target.classes,
        column=options.column or Path(options.labels or "value").stem,
        dim=dataset.dim,
        embedding_model=dataset.model,
        rows=len(rows),
        split=split.name,
        metric=metric,
        value=float(outcome.spread[metric][0]),
        low=low_score,
        high=high_score,
        residuals=residuals,
    )
