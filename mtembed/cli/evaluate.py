"""``mtembed evaluate``: what embeddings are worth, as a table with intervals beside baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Talk
from mtembed.cli.working import working
from mtembed.evaluation.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from mtembed.evaluation.result import Evaluation

HEALTH = (
    ("not finite", "not_finite"),
    ("duplicates", "duplicate_share"),
    ("dead dimensions", "dead_dimensions"),
    ("RankMe", "rankme"),
    ("TwoNN", "two_nn"),
    ("Moran's I, cells", "moran_cells"),
)


def evaluate(
    datasets: Annotated[
        tuple[str, ...],
        Parameter(name="DATASET", negative=(), help="Embeddings, or addresses; several: compared."),
    ],
    /,
    *,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    talk: Talk = SPEECH,
) -> int:
    """Score embeddings with frozen probes against labels; without labels say how they are."""
    from mtembed.dataset.finding import default_output
    from mtembed.evaluation.evaluate import run

    chosen = options or EvaluateOptions()
    if chosen.output is None:
        chosen = replace(chosen, output=str(default_output(datasets[0], "evaluation")))
    with working(talk, unit="") as tick:
        found = run(datasets, chosen, tick)
    talk.show(view(found), [{"event": "result", "output": found.output, **found.as_json()}])
    return 0


def view(found: Evaluation) -> Group:
    """Findings, the main split's scores, health."""
    from rich.console import Group

    from mtembed.cli.tables import lines

    parts: list[RenderableType] = []
    for dataset in found.datasets if found.scores else ():
        for split in dict.fromkeys(score.split for name, score in found.scores if name == dataset):
            parts += [_scores(found, dataset, split), lines("")]
    parts += [_health(found), lines("", *found.sentences), lines("", f"{found.output}/evaluation.html: the page")]
    return Group(*parts)


def _scores(found: Evaluation, dataset: str, split: str) -> Any:
    from mtembed.cli.tables import Columns
    from mtembed.evaluation import words
    from mtembed.evaluation.metrics import METRICS
    from mtembed.evaluation.options import CONSTANT, EMBEDDING

    first, second, *_ = METRICS[found.task]
    mine = {(s.features, s.probe, s.metric): s for name, s in found.scores if name == dataset and s.split == split}
    rows: list[tuple[str, ...]] = []
    marked: list[int] = []
    for features, probe in dict.fromkeys((f, p) for f, p, _ in mine):
        main, other = mine[features, probe, first], mine[features, probe, second]
        interval = "" if main.low is None or main.high is None else f"{_number(main.low)} to {_number(main.high)}"
        if features == EMBEDDING:
            marked.append(len(rows))
        rows.append(
            (words.features(features), probe if probe != CONSTANT else "-", _number(main.value), interval,
             _number(other.value))
        )  # fmt: skip
    headings = ("features", "probe", words.METRIC[first], "95 %", words.METRIC[second])
    title = words.SPLIT[split] + (f", {dataset}" if len(found.datasets) > 1 else "")
    return Columns(headings, rows, title=title[0].upper() + title[1:], numbers=headings[2:], marked=marked)


def _number(value: float) -> str:
    from mtembed.evaluation.words import number

    return number(value)


def _health(found: Evaluation) -> Any:
    from mtembed.cli.tables import Columns

    rows = [(name, *(_cell(facts.get(key)) for facts in found.health)) for name, key in HEALTH]
    names = tuple(_distinct(found.datasets))
    return Columns(("health", *names), rows, title="Without labels (diagnostics, not scores)", numbers=names)


def _distinct(names: tuple[str, ...]) -> Iterator[str]:
    """Headings of columns must differ."""
    for i, name in enumerate(names):
        yield name if name not in names[:i] else f"{name} ({i + 1})"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else _number(float(value))
