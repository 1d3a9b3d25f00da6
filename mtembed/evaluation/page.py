"""The evaluation as one page that needs nothing else: no scripts, no fonts, no network; light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from mtembed.evaluation import svg, words
from mtembed.evaluation.assess import Assessed
from mtembed.evaluation.metrics import LOWER_IS_BETTER, METRICS, interval
from mtembed.evaluation.options import CONSTANT, EMBEDDING
from mtembed.evaluation.result import Evaluation, versions
from mtembed.evaluation.scoring import Outcome
from mtembed.evaluation.words import number

MOST_CLASSES = 30  # in a confusion table
LEAST_SHOWN = -1.0  # R2 and correlations below it are drawn at the edge
HEALTH = (
    ("rows", "rows", "vectors in the dataset"),
    ("dim", "dimensions", ""),
    ("not_finite", "not finite", "vectors with NaN or infinity"),
    ("zero_vectors", "all zeros", ""),
    ("duplicate_share", "duplicates", "share of vectors that equal another one"),
    ("norm", "norm, median", "length of a vector"),
    ("dead_dimensions", "dead dimensions", "dimensions that never vary"),
    ("rankme", "RankMe", "effective rank; noise has a high one too"),
    ("participation_ratio", "participation ratio", "how many directions carry the variance"),
    ("two_nn", "TwoNN", "intrinsic dimension, from nearest neighbours"),
    ("uniformity", "uniformity", "lower is more spread out on the sphere"),
    ("mean_cosine", "mean cosine", "near 1: all vectors point one way"),
    ("moran_cells", "Moran's I, cells", "1: neighbouring cells are alike along the first component"),
    ("moran_fragments", "Moran's I, fragments", "the same within cells"),
    ("two_date_places", "fragments at two dates", ""),
    ("same_place_cosine", "cosine, same place", "of a fragment at two dates: how stable it is"),
    ("other_places_cosine", "cosine, other places", "what to compare it with"),
)
AGREEMENT = (
    ("matched", "places in common", ""),
    ("at_another_date", "at another date", ""),
    ("cka", "CKA", "1: the same up to rotation and scale"),
    ("shared_neighbours_10", "shared neighbours", "share of the 10 nearest rows that both have"),
    ("alignment", "alignment", "squared distance of the two vectors of a place, 0 to 4"),
    ("retrieval_1", "retrieval at 1", "rows whose own place is found first"),
    ("retrieval_10", "retrieval at 10", "or among the first ten"),
    ("same_place_cosine", "cosine, same place", "for two dates: how stable a place is"),
    ("other_places_cosine", "cosine, other places", "what to compare it with"),
)


def page(found: Evaluation, assessed: Sequence[Assessed]) -> str:
    """The whole page."""
    from jinja2 import Environment
    from markupsafe import Markup

    room = files("mtembed.evaluation")
    environment = Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(room.joinpath("page.html").read_text(encoding="utf-8"))
    several = len(found.datasets) > 1
    return template.render(
        title=" and ".join(found.datasets),
        style=Markup(room.joinpath("page.css").read_text(encoding="utf-8")),
        subtitle=_subtitle(found),
        findings=found.sentences or ("Nothing is wrong with the vectors that can be seen without labels.",),
        block_km=10 * found.settings["block_cells"],
        assessed=[_assessed(one, several) for one in assessed],
        health=_diagnostics(HEALTH, found.health, [str(facts["dataset"]) for facts in found.health]),
        agreement=_diagnostics(
            AGREEMENT, found.agreement, [" and ".join(facts["datasets"]) for facts in found.agreement]
        ),
        made=list(_made(found)),
    )


def _subtitle(found: Evaluation) -> str:
    if not found.task:
        return f"health of {sum(facts['rows'] for facts in found.health):,} vectors, no labels"
    return f"{found.task}, {found.rows_labelled:,} labelled rows, seed {found.seed}"


def _assessed(one: Assessed, several: bool) -> dict[str, Any]:
    """What the template shows of one dataset."""
    target = one.plan.rows.target
    metric = METRICS[target.task][0]
    best = _best(one, metric)
    drawn = _map(one, best)
    return {
        "of": f" of {one.dataset}" if several else "",
        "metric": words.METRIC[metric],
        "direction": "Lower is better." if metric in LOWER_IS_BETTER else "Higher is better.",
        "splits": [_split(one, split.name, metric) for split in one.plan.splits],
        "curve": _curve(one, metric),
        "curve_hint": _curve_hint(one),
        "confusion": _confusion(one, best),
        "table": _table(one),
        **drawn,
    }


def _best(one: Assessed, metric: str) -> Outcome:
    """The embedding's best probe on the main split."""
    own = [o for o in one.outcomes if o.features == EMBEDDING and o.split == one.plan.splits[0].name]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return max(own, key=lambda o: sign * float(np.nan_to_num(o.spread[metric][0], nan=-math.inf)))


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _split(one: Assessed, split: str, metric: str) -> dict[str, Any]:
    rows = []
    for o in one.outcomes:
        if o.split == split:
            low, high = interval(o.spread[metric], o.blocks)
            name = ", ".join(filter(None, (words.features(o.features), words.probe(o.probe))))
            rows.append(svg.Bar(name, float(o.spread[metric][0]), low, high, o.features == EMBEDDING))
    title = words.SPLIT[split]
    least = LEAST_SHOWN if metric == "r2" else 0.0
    return {
        "title": title[0].upper() + title[1:],
        "drawing": _markup(svg.bars(rows, least, 1.0 if metric != "rmse" else None, title)),
    }


def _curve(one: Assessed, metric: str) -> Any:
    probe = next((shots.probe for shots in one.shots), None)
    if probe is None:
        return None
    lines = []
    for name in dict.fromkeys(shots.features for shots in one.shots):
        points: list[tuple[float, float, float | None, float | None]] = [
            (float(s.shots), s.value, s.low, s.high) for s in one.shots if (s.features, s.metric) == (name, metric)
        ]
        full = one.find(name, probe)
        if full is not None:
            points.append((math.inf, float(full.spread[metric][0]), *interval(full.spread[metric], full.blocks)))
        lines.append(svg.Curve(words.features(name), tuple(points), name == EMBEDDING))
    floor = next((float(o.spread[metric][0]) for o in one.outcomes if o.probe == CONSTANT), None)
    return _markup(svg.curves(lines, floor, words.METRIC[metric], "Scores with few labels"))


def _curve_hint(one: Assessed) -> str:
    if not one.shots:
        return ""
    each = "labels of each class" if one.plan.rows.target.task == "classification" else "labels in all"
    first = one.shots[0]
    return (
        f"Training {each}, drawn {first.draws} times, {words.SPLIT[first.split]}, {words.probe(first.probe)}. "
        "Bars hold 95 % of the draws; at all, 95 % of the draws of blocks. The dashed line is the constant baseline."
    )


def _confusion(one: Assessed, best: Outcome) -> dict[str, Any] | None:
    table = one.confusions().get(best.probe)
    if table is None:
        return None
    counts = np.array(table)
    chosen = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_CLASSES])
    names = [one.plan.rows.target.classes[k] for k in chosen]
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    rows = [
        {
            "name": one.plan.rows.target.classes[k],
            "cells": [
                {"count": int(counts[k, j]), "share": round(60 * shares[k, j]),
                 "colour": "--good" if k == j else "--bad"}
                for j in chosen
            ],
        }
        for k in chosen
    ]  # fmt: skip
    more = "" if len(chosen) == len(counts) else f" Only the {len(chosen)} largest classes are shown."
    return {"names": names, "rows": rows, "hint": f"{words.probe(best.probe)}, {words.SPLIT[best.split]}.{more}"}


def _map(one: Assessed, best: Outcome) -> dict[str, Any]:
    """Where held-out rows were right, or too high and too low."""
    rows, target = one.plan.rows, one.plan.rows.target
    if target.task == "multilabel":
        return {}
    lat, lon, truth = rows.lat[best.test], rows.lon[best.test], target.values[best.test]
    legend: list[tuple[str, str]]
    if target.task == "classification":
        said = best.predicted.argmax(axis=1)
        classes = ["right" if a == b else "wrong" for a, b in zip(truth, said, strict=True)]
        tips = [f"true {target.classes[a]}, said {target.classes[b]}" for a, b in zip(truth, said, strict=True)]
        legend = [("right", "right"), ("wrong", "wrong")]
        order = np.argsort([kind == "wrong" for kind in classes], kind="stable")  # what is wrong lies on top
    else:
        residual = best.predicted - truth
        spread = float(np.std(truth))
        classes = [svg.shade(float(r), spread) for r in residual]
        tips = [f"true {number(float(a))}, said {number(float(b))}" for a, b in zip(truth, best.predicted, strict=True)]
        edge = number(2 * spread)
        legend = [("r0", f"too low by {edge} or more"), ("r5", "right"), ("r10", f"too high by {edge} or more")]
        order = np.argsort(np.abs(residual), kind="stable")
    title = "Residuals on a map" if target.task == "regression" else "Right and wrong on a map"
    picture = svg.scatter(lat[order], lon[order], [classes[i] for i in order], [tips[i] for i in order], title)
    return {"map": _markup(picture), "map_title": title, "map_legend": legend}


def _table(one: Assessed) -> dict[str, Any]:
    metrics = METRICS[one.plan.rows.target.task]
    heads = ["split", "features", "probe", *(words.METRIC[m] for m in metrics), "train", "test", "blocks"]
    rows = []
    for o in one.outcomes:
        texts = [o.split, words.features(o.features), words.probe(o.probe).replace(" probe", "") or "-"]
        for metric in metrics:
            texts.append(words.with_interval(float(o.spread[metric][0]), *interval(o.spread[metric], o.blocks)))
        texts += [f"{o.n_train:,}", f"{len(o.test):,}", f"{o.blocks:,}"]
        rows.append({"own": o.features == EMBEDDING, "texts": texts})
    return {"heads": heads, "rows": rows}


def _diagnostics(
    wanted: Sequence[tuple[str, str, str]], found: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    rows = [
        {"name": name, "texts": [_plain(facts.get(key)) for facts in found], "hint": hint}
        for key, name, hint in wanted
        if any(facts.get(key) is not None for facts in found)
    ]
    return {"names": names, "rows": rows}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value["median"]
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else number(float(value))


def _made(found: Evaluation) -> Iterator[tuple[str, str]]:
    for name, value in found.settings.items():
        if value not in (None, []):
            yield f"--{name.replace('_', '-')}", str(value)
    for reason, count in found.rows_dropped.items():
        yield f"rows {reason}", f"{count:,}"
    for reason, count in found.labels_dropped.items():
        yield f"labels {reason}", f"{count:,}"
    yield "versions", ", ".join(f"{name} {number}" for name, number in versions().items())
