"""What an evaluation found, as a record and as JSON that is the same whenever it is made again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from mtembed.errors import OutputError
from mtembed.evaluation.scoring import Score, Shots

LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "shapely", "rasterio")
DIGITS = 6  # that count; beyond them machines differ


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``mtembed.evaluate`` returns.

    Attributes
    ----------
    output
        The folder of evaluation.json and evaluation.html, or '' where nothing was written.
    datasets
        Names of the datasets, the first one first.
    sources
        What identifies the files it was made from: those of the datasets, labels, shards.
    settings
        All options, and what was decided.
    seed
        Start of all random numbers.
    task, classes
        What the labels are; '' without labels.
    rows_labelled, rows_dropped
        Rows of the (first) dataset with a label, and those without by reason.
    labels, labels_dropped
        Labels read, and those that no row got, by reason.
    splits
        Of each split: name, folds, groups, and rows and classes of every fold.
    scores, few_shot
        One object per dataset x features x probe x split x metric (x shots).
    confusion
        Counts [K, K] of the main split's held-out rows, rows are what is true, of each probe on the embedding.
    health
        Of each dataset, without labels: diagnostics, not scores.
    agreement
        Of each pair of datasets.
    sentences
        Findings in words.
    """

    output: str
    datasets: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    seed: int
    task: str = ""
    classes: tuple[str, ...] = ()
    rows_labelled: int = 0
    rows_dropped: Mapping[str, int] = field(default_factory=dict)
    labels: int = 0
    labels_dropped: Mapping[str, int] = field(default_factory=dict)
    splits: tuple[Mapping[str, Any], ...] = ()
    scores: tuple[tuple[str, Score], ...] = ()
    few_shot: tuple[tuple[str, Shots], ...] = ()
    confusion: Mapping[str, list[list[int]]] = field(default_factory=dict)
    health: tuple[Mapping[str, Any], ...] = ()
    agreement: tuple[Mapping[str, Any], ...] = ()
    sentences: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any], output: str) -> Evaluation:
        """The record of an evaluation.json that ``as_json`` made.  Raises OutputError where it is another file."""
        try:
            healthy = dict(content["health"])
            others = healthy.pop("others", [])
            return cls(
                output=output,
                datasets=tuple(content["datasets"]),
                sources=tuple(content["sources"]),
                settings=content["settings"],
                seed=content["seed"],
                task=content["task"] or "",
                classes=tuple(content["classes"]),
                rows_labelled=content["rows_labelled"],
                rows_dropped=content["rows_dropped"],
                labels=content["labels"],
                labels_dropped=content["labels_dropped"],
                splits=tuple(content["splits"]),
                scores=tuple((line["dataset"], _record(Score, line)) for line in content["scores"]),
                few_shot=tuple((line["dataset"], _record(Shots, line)) for line in content["few_shot"]),
                confusion=content["confusion"],
                health=(healthy, *others) if healthy else (),
                agreement=tuple(content["agreement"]),
                sentences=tuple(content["sentences"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError("evaluation.json is damaged: make it again with --fresh") from error

    def as_json(self) -> dict[str, Any]:
        """Plain data; numbers to ``DIGITS`` digits that count, what is not finite as null."""
        content = {
            "command": "evaluate",
            "datasets": list(self.datasets),
            "sources": list(self.sources),
            "settings": dict(self.settings),
            "seed": self.seed,
            "versions": versions(),
            "task": self.task or None,
            "classes": list(self.classes),
            "rows_labelled": self.rows_labelled,
            "rows_dropped": dict(self.rows_dropped),
            "labels": self.labels,
            "labels_dropped": dict(self.labels_dropped),
            "splits": list(self.splits),
            "scores": [{"dataset": name} | asdict(score) for name, score in self.scores],
            "few_shot": [{"dataset": name} | asdict(shots) for name, shots in self.few_shot],
            "confusion": dict(self.confusion),
            "health": health_object(self.health),
            "agreement": list(self.agreement),
            "sentences": list(self.sentences),
        }
        plain: dict[str, Any] = rounded(content)
        return plain


def _record(kind: type[Any], line: Mapping[str, Any]) -> Any:
    return kind(**{name: value for name, value in line.items() if name != "dataset"})


def health_object(found: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """The first dataset's health; of the others under ``others``, by name."""
    if not found:
        return {}
    return {**found[0], **({"others": list(found[1:])} if len(found) > 1 else {})}


def versions() -> dict[str, str]:
    from mtembed import __version__

    return {"mtembed": __version__, **{name: version(name) for name in LIBRARIES}}


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
