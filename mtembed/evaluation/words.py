"""Names of features, probes, splits and metrics as people read them, and findings as plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtembed.evaluation.metrics import LOWER_IS_BETTER, METRICS, interval
from mtembed.evaluation.options import CONSTANT, EMBEDDING, EvaluateOptions
from mtembed.evaluation.scoring import Outcome, main_neighbours
from mtembed.evaluation.splits import Plan

METRIC = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_map": "macro mAP",
    "micro_map": "micro mAP",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman",
}
SPLIT = {
    "blocks": "blocks held out",
    "cells": "cells held out",
    "groups": "groups held out",
    "random": "rows held out at random",
    "column": "the labels' own split",
}
FEATURES = {
    "embedding": "embedding",
    "majority": "majority class",
    "mean": "mean",
    "latlon": "lat/lon",
    "permuted": "permuted labels",
    "bands": "band statistics",
    "rcf": "random convolutions (rcf)",
    "random-weights": "random weights",
}
GAP = 0.05  # between a random and a blocked score: from here on it is a finding


def probe(name: str) -> str:
    """'kNN probe (k = 5, cosine)', 'linear probe', or '' where there is none."""
    if name.startswith("knn-"):
        k, *metric = name.removeprefix("knn-").split("-")
        return f"kNN probe ({', '.join((f'k = {k}', *metric))})"
    return "" if name == CONSTANT else f"{name} probe"


def features(name: str) -> str:
    return FEATURES.get(name, name)


def number(value: float) -> str:
    """Three digits that count, but no more than three behind the point: 0.445, -1.2, 26.9, 1250."""
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def with_interval(value: float, low: float | None, high: float | None) -> str:
    return number(value) + ("" if low is None or high is None else f" ({number(low)} to {number(high)})")


def sentences(plan: Plan, found: Sequence[Outcome], options: EvaluateOptions) -> list[str]:
    """What the scores say: the main score, then against every baseline, then what a random split hides."""
    target = plan.rows.target
    metric = METRICS[target.task][0]
    said = [f"The task is {target.task}: {target.reason}."]
    said += [note[0].upper() + note[1:] + "." for note in plan.notes]
    probes = [name for name in ("linear", f"knn-{main_neighbours(options)}") if _find(found, plan, EMBEDDING, name)]
    for name in probes:
        said += _against_baselines(plan, found, name, metric)
    said += _gaps(plan, found, probes, metric)
    return said


def _find(found: Sequence[Outcome], plan: Plan, features: str, probe: str, split: str | None = None) -> Outcome | None:
    split = split or plan.splits[0].name
    return next((o for o in found if (o.features, o.probe, o.split) == (features, probe, split)), None)


def _against_baselines(plan: Plan, found: Sequence[Outcome], name: str, metric: str) -> Iterator[str]:
    own = _find(found, plan, EMBEDDING, name)
    assert own is not None
    where, what = SPLIT[own.split], METRIC[metric]
    low, high = interval(own.spread[metric], own.blocks)
    score = with_interval(float(own.spread[metric][0]), low, high)
    yield f"The {probe(name)} on the embedding scores {what} {score}, {where}."
    others = [o for o in found if o.split == own.split and o.features != EMBEDDING and o.probe in (name, CONSTANT)]
    better: list[str] = []
    level: list[str] = []
    for other in others:
        gain = own.spread[metric] - other.spread[metric]
        gain = -gain if metric in LOWER_IS_BETTER else gain
        low, high = interval(gain, own.blocks)
        text = f"{features(other.features)} ({number(float(other.spread[metric][0]))})"
        (better if gain[0] > 0 and (low is None or low > 0) else level).append(text)
    if better:
        yield f"The {probe(name)} is better than {_listed(better)}."
    if level:
        yield f"The {probe(name)} is not better than {_listed(level, 'or')}."
    if own.blocks < 2:
        yield "One block gives no intervals: differences may be chance."


def _listed(items: Sequence[str], word: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def _gaps(plan: Plan, found: Sequence[Outcome], probes: Sequence[str], metric: str) -> Iterator[str]:
    """A random split beside the blocked one."""
    names = [split.name for split in plan.splits]
    if "random" not in names:
        return
    fair = next((name for name in ("blocks", "cells") if name in names), None)
    if fair is None:
        yield "A random split alone says little: neighbours look alike, and no place could be held out."
        return
    for name in probes:
        loose, strict = (_find(found, plan, EMBEDDING, name, split) for split in ("random", fair))
        if loose is None or strict is None:
            continue
        at_random, held_out = (float(o.spread[metric][0]) for o in (loose, strict))
        gap = at_random - held_out
        what = (
            "most of a random split's score is neighbours that look alike" if gap > at_random / 2 else "neighbours help"
        )
        ending = f": {what}" if gap > GAP else ""
        yield (
            f"The {probe(name)} scores {METRIC[metric]} {number(at_random)} with rows held out at random and "
            f"{number(held_out)} with {fair} held out, a gap of {number(gap)}{ending}."
        )


# -- several datasets, and no labels ---------------------------------------------------------------------------------


def comparison(found: Sequence[tuple[str, Plan, Sequence[Outcome]]], options: EvaluateOptions) -> Iterator[str]:
    """Each dataset against the first one; paired over blocks where both were scored on the same rows."""
    first_name, first_plan, first_outcomes = found[0]
    metric = METRICS[first_plan.rows.target.task][0]
    for name, other_plan, other_outcomes in found[1:]:
        for kind in ("linear", f"knn-{main_neighbours(options)}"):
            one = _find(first_outcomes, first_plan, EMBEDDING, kind)
            two = _find(other_outcomes, other_plan, EMBEDDING, kind)
            if one is not None and two is not None:
                paired = _same_rows(first_plan, other_plan)
                text = _compared(first_name, name, one, two, metric, paired)
                yield f"With the {probe(kind)}: {text}"


def _same_rows(one: Plan, two: Plan) -> bool:
    a, b = one.rows, two.rows
    return len(a) == len(b) and bool(np.allclose(a.lat, b.lat, atol=1e-5) and np.allclose(a.lon, b.lon, atol=1e-5))


def _compared(first: str, second: str, one: Outcome, two: Outcome, metric: str, paired: bool) -> str:
    a, b = one.spread[metric], two.spread[metric]
    text = f"{first} {METRIC[metric]} {number(float(a[0]))}, {second} {number(float(b[0]))}"
    if not paired:
        return f"{text}; they were scored on different rows, so the difference is a hint only."
    low, high = interval(a - b, one.blocks)
    if low is None or high is None:
        return f"{text}; with one block it cannot be said whether that is chance."
    if low <= 0 <= high:
        return f"{text}; the difference may be chance ({number(low)} to {number(high)})."
    better = first if (low > 0) != (metric in LOWER_IS_BETTER) else second
    return f"{text}; {better} is better ({number(low)} to {number(high)})."


def health(facts: Mapping[str, Any], several: bool) -> Iterator[str]:
    """What is wrong with the vectors; nothing where nothing is."""
    start = f"{facts['dataset']}: " if several else ""
    if facts["not_finite"]:
        yield f"{start}{facts['not_finite']:,} of {facts['rows']:,} vectors are not finite."
    if facts["zero_vectors"]:
        yield f"{start}{facts['zero_vectors']:,} vectors are all zeros."
    if facts["duplicate_share"] >= 0.001:
        yield f"{start}{facts['duplicate_share']:.1%} of the vectors equal another one."
    if facts["dead_dimensions"]:
        yield f"{start}{facts['dead_dimensions']} of {facts['dim']} dimensions never vary."
    if facts["same_place_cosine"] is not None:
        share = facts["two_date_share_looked_at"]
        sample = "" if share == 1 else f" in a sample of {share:.1%}"
        yield (
            f"{start}{facts['two_date_places']:,} fragments{sample} are there at two dates: the cosine of a place with "
            f"itself is {number(facts['same_place_cosine'])}, with others {number(facts['other_places_cosine'])}; "
            "a diagnostic of stability, not a score."
        )


def agreement(facts: Mapping[str, Any]) -> str:
    one, two = facts["datasets"]
    if "cka" not in facts:
        return f"{one} and {two} share {facts['matched']} places, too few to compare them."
    sample = "" if facts["share_looked_at"] == 1 else f" in a sample of {facts['share_looked_at']:.1%}"
    text = f"{one} and {two} share {facts['matched']:,} places{sample}: CKA {number(facts['cka'] or 0.0)}"
    if facts["retrieval_1"] is not None:
        chance = number(facts["retrieval_chance"])
        text += f", {facts['retrieval_1']:.1%} of the rows find their own place first (by chance {chance})"
    if facts["at_another_date"] and facts["same_place_cosine"] is not None:
        text += (
            f"; {facts['at_another_date']:,} of them at another date: the cosine of a place with itself is "
            f"{number(facts['same_place_cosine'])}, with other places {number(facts['other_places_cosine'])}"
        )
    return text + "; a diagnostic, not a score."
