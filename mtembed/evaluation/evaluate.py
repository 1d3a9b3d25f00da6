"""``mtembed evaluate``: labels, splits, probes, baselines, health; one record, one JSON file, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mtembed.dataset.files import Name
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.evaluation import agreement, health, labels, output, page, probe_file, probes, trained, words
from mtembed.evaluation.assess import Assessed, assess
from mtembed.evaluation.join import Tick
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.result import Evaluation, rounded
from mtembed.evaluation.splits import counts

JSON_NAME = "evaluation.json"
PAGE_NAME = "evaluation.html"


def evaluate(dataset: Name | Sequence[Name], **options: Any) -> Evaluation:
    """Score embeddings with frozen probes; the same as ``mtembed evaluate``, without printing.

    ``dataset`` is one dataset or several to compare; ``options`` are the fields of ``EvaluateOptions``.  Files are
    written only where ``output`` is given.  Raises MtembedError.
    """
    names = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    return run(names, EvaluateOptions(**options), lambda stage, done, total: None)


def default_output(name: str) -> Path:
    """``DATASET/evaluation`` for a folder, ``NAME-evaluation`` here for anything else."""
    path = Path(name)
    return path / "evaluation" if path.is_dir() else Path(f"{path.stem.strip('*') or 'dataset'}-evaluation")


def run(names: Sequence[Name], options: EvaluateOptions, tick: Tick) -> Evaluation:
    """Everything, with progress.  An output that is there already, of the same command and input, is read back."""
    datasets = [open_dataset(name) for name in names]
    inputs = _inputs(datasets, options)
    settings: Mapping[str, Any] = rounded(dict(options.as_json()))
    folder = Path(options.output) if options.output else None
    if folder is not None:
        wanted = {"command": "evaluate", "settings": settings, "inputs": rounded(inputs)}
        before = output.earlier(folder, JSON_NAME, wanted, options.fresh)
        if before and not (options.save_probe and not Path(options.save_probe).exists()):
            return Evaluation.from_json(before, str(folder))
    with probes.calm():
        found, drawn = _evaluated(datasets, inputs, settings, options, tick)
        if options.save_probe:
            probe_file.save(Path(options.save_probe), trained.on_all_rows(drawn[0], datasets[0], options))
    if folder is not None:
        output.make(folder)
        output.put(folder / PAGE_NAME, page.page(found, drawn))
        output.put(folder / JSON_NAME, output.to_json(found.as_json()))
    return found


def _inputs(datasets: Sequence[EmbeddingDataset], options: EvaluateOptions) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [
        {"dataset": dataset.name, "files": dataset.sources()} for dataset in datasets
    ]  # fmt: skip
    if options.labels:
        found.append({"labels": [labels.identity(path) for path in labels.find(options.labels)]})
    return found


def _evaluated(
    datasets: Sequence[EmbeddingDataset],
    inputs: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    options: EvaluateOptions,
    tick: Tick,
) -> tuple[Evaluation, list[Assessed]]:
    wanted = bool(options.column or options.labels)
    assessed = [assess(dataset, options, tick) for dataset in datasets] if wanted else []
    healthy = [health.of_dataset(dataset, options.seed, tick) for dataset in datasets]
    agreed = [agreement.of_pair(one, two, options.seed, tick) for one, two in combinations(datasets, 2)]
    found = Evaluation(
        output=options.output or "",
        datasets=tuple(dataset.name for dataset in datasets),
        inputs=tuple(inputs),
        settings=settings,
        seed=options.seed,
        health=tuple(healthy),
        agreement=tuple(agreed),
        sentences=tuple(_sentences(assessed, healthy, agreed, options)),
        **(_of_labels(assessed) if assessed else {}),
    )
    return found, assessed


def _of_labels(assessed: Sequence[Assessed]) -> dict[str, Any]:
    first = assessed[0].plan.rows
    return {
        "task": first.target.task,
        "classes": first.target.classes,
        "rows_labelled": len(first),
        "rows_dropped": first.dropped,
        "labels": first.labels,
        "labels_dropped": first.labels_dropped,
        "splits": tuple(
            {"dataset": one.dataset, "split": split.name, "groups": len(set(split.groups.tolist())),
             "folds": counts(split, one.plan.rows)}
            for one in assessed
            for split in one.plan.splits
        ),
        "scores": tuple((one.dataset, score) for one in assessed for o in one.outcomes for score in o.scores()),
        "few_shot": tuple((one.dataset, shots) for one in assessed for shots in one.shots),
        "confusion": assessed[0].confusions(),
    }  # fmt: skip


def _sentences(
    assessed: Sequence[Assessed],
    healthy: Sequence[Mapping[str, Any]],
    agreed: Sequence[Mapping[str, Any]],
    options: EvaluateOptions,
) -> list[str]:
    several = len(healthy) > 1
    said: list[str] = []
    for one in assessed:
        mine = words.sentences(one.plan, one.outcomes, options)
        said += [f"{one.dataset}: {text}" for text in mine] if several else mine
    if len(assessed) > 1:
        said += words.comparison([(one.dataset, one.plan, one.outcomes) for one in assessed], options)
    for facts in healthy:
        said += words.health(facts, several)
    return said + [words.agreement(facts) for facts in agreed]
