"""One dataset against its labels: rows, splits, features, predictions of held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.evaluation.labelled import Labelled, labelled
from mtembed.evaluation.metrics import confusion
from mtembed.evaluation.options import EMBEDDING, EvaluateOptions
from mtembed.evaluation.scoring import Features, Outcome, Shots, few_shots, outcomes
from mtembed.evaluation.splits import Plan, plan
from mtembed.types import Tick

MOST_CLASSES = 100  # of which confusions are counted
FEW_SHOT_FEATURES = (EMBEDDING, "latlon")


@dataclass(frozen=True, slots=True, eq=False)
class Assessed:
    """A dataset's plan, the outcome of every probe, and the few-shot scores."""

    dataset: str
    plan: Plan
    outcomes: list[Outcome]
    shots: list[Shots]

    def find(self, features: str, probe: str, split: str | None = None) -> Outcome | None:
        """Of the main split where none is named."""
        split = split or self.plan.splits[0].name
        return next((o for o in self.outcomes if (o.features, o.probe, o.split) == (features, probe, split)), None)

    def confusions(self) -> dict[str, list[list[int]]]:
        """Of each probe on the embedding, over the main split's held-out rows; empty with very many classes."""
        target = self.plan.rows.target
        if target.task != "classification" or len(target.classes) > MOST_CLASSES:
            return {}
        return {
            o.probe: confusion(target.values[o.test], o.predicted.argmax(axis=1), len(target.classes)).tolist()
            for o in self.outcomes
            if o.features == EMBEDDING and o.split == self.plan.splits[0].name
        }


def assess(dataset: EmbeddingDataset, options: EvaluateOptions, work: Path, tick: Tick) -> Assessed:
    """``work`` keeps what is made from ``--shards``.  Raises UsageError where labels cannot be used."""
    rows = labelled(dataset, options, tick)
    if options.shards:
        from mtembed.evaluation.from_shards import with_baselines

        rows = with_baselines(dataset, rows, options.shards, work, tick)
    planned = plan(rows, options)
    features = compared(planned.rows)
    found = outcomes(planned, features, options, tick)
    few = [one for one in features if one.name in FEW_SHOT_FEATURES]
    return Assessed(dataset.name, planned, found, few_shots(planned, few, options, tick))


def compared(rows: Labelled) -> list[Features]:
    """The embedding, and what it must be better than."""
    place = np.stack([rows.lat, rows.lon], axis=1).astype(np.float32)
    constant = "majority" if rows.target.task == "classification" else "mean"
    return [
        Features(EMBEDDING, rows.vectors),
        Features(constant, None),
        Features("latlon", place),
        Features("permuted", rows.vectors, permuted=True),
        *(Features(name, vectors) for name, vectors in rows.beside.items()),
    ]
