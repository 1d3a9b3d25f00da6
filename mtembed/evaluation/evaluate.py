"""``mtembed evaluate``: labels, splits, probes, baselines, health; one record, one JSON file, one page."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mtembed.dataset.atomic import write_atomically
from mtembed.dataset.finding import Name
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.evaluation import agreement, health, labels, page, probe_file, probes, trained, words
from mtembed.evaluation.assess import Assessed, assess
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.result import Evaluation, rounded
from mtembed.evaluation.splits import counts
from mtembed.types import Tick

JSON_NAME = "evaluation.json"
PAGE_NAME = "evaluation.html"


def evaluate(dataset: Name | Sequence[Name], **options: Any) -> Evaluation:
    """Score embeddings with frozen probes; the same as ``mtembed evaluate``, without printing.

    ``dataset`` is one dataset or several to compare; ``options`` are the fields of ``EvaluateOptions``.  Files are
    written only where ``output`` is given.  Raises MtembedError.
    """
    names = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    return run(names, EvaluateOptions.of(**options), lambda stage, done, total: None)


def run(names: Sequence[Name], options: EvaluateOptions, tick: Tick) -> Evaluation:
    """Everything, with progress.  An output that is there already, of the same command and input, is read back."""
    work = Work([open_dataset(name, tick=tick) for name in names], options, tick)
    if not options.output:
        with tempfile.TemporaryDirectory(prefix="mtembed-evaluate-") as scratch:
            return work.evaluated(Path(scratch))[0]
    folder = ResultFolder(Path(options.output), JSON_NAME, [PAGE_NAME], work.settings, work.sources)
    with folder.held(options.fresh) as held:
        if held.finished and not work.probe_is_missing():
            return Evaluation.from_json(held.content(), options.output)
        found, drawn = work.evaluated(held.work)
        write_atomically(held.root / PAGE_NAME, page.page(found, drawn))
        held.record(found.as_json())
        return found


class Work:
    """What is evaluated, and how."""

    def __init__(self, datasets: Sequence[EmbeddingDataset], options: EvaluateOptions, tick: Tick) -> None:
        self._datasets, self._options, self._tick = datasets, options, tick
        self.settings: Mapping[str, Any] = rounded(dict(options.as_json()))
        self.sources = [
            *({"dataset": dataset.name, **source} for dataset in datasets for source in dataset.sources()),
            *_label_sources(options),
            *_shard_sources(options),
        ]

    def probe_is_missing(self) -> bool:
        return bool(self._options.save_probe) and not Path(str(self._options.save_probe)).exists()

    def evaluated(self, scratch: Path) -> tuple[Evaluation, list[Assessed]]:
        """``scratch`` keeps what is made from ``--shards``."""
        options, datasets, tick = self._options, self._datasets, self._tick
        probe = Path(options.save_probe) if options.save_probe else None
        if probe:
            probe_file.require_ours(probe, self._identity(), options.fresh)
        with probes.calm():
            wanted = bool(options.column or options.labels)
            assessed = [assess(dataset, options, scratch, tick) for dataset in datasets] if wanted else []
            found = self._found(assessed)
            if probe:
                probe_file.save(probe, trained.on_all_rows(assessed[0], datasets[0], options), self._identity())
        return found, assessed

    def _identity(self) -> str:
        """sha256 of what the result is made from."""
        return hashlib.sha256(json.dumps([self.settings, self.sources], sort_keys=True).encode()).hexdigest()

    def _found(self, assessed: Sequence[Assessed]) -> Evaluation:
        options, datasets, tick = self._options, self._datasets, self._tick
        healthy = [health.of_dataset(dataset, options.seed, tick) for dataset in datasets]
        agreed = [agreement.of_pair(one, two, options.seed, tick) for one, two in combinations(datasets, 2)]
        return Evaluation(
            output=options.output or "",
            datasets=tuple(dataset.name for dataset in datasets),
            sources=tuple(self.sources),
            settings=self.settings,
            seed=options.seed,
            health=tuple(healthy),
            agreement=tuple(agreed),
            sentences=tuple(_sentences(assessed, healthy, agreed, options)),
            **(_of_labels(assessed) if assessed else {}),
        )


def _label_sources(options: EvaluateOptions) -> list[dict[str, Any]]:
    paths = labels.find(options.labels) if options.labels else []
    return [labels.identity(one) for path in paths for one in labels.companions(path)]


def _shard_sources(options: EvaluateOptions) -> list[dict[str, Any]]:
    if not options.shards:
        return []
    from mtembed.evaluation.from_shards import sources

    return sources(options.shards)


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
