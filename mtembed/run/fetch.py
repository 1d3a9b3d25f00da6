"""Weights are looked for in a process of their own: the libraries that publish them load torch."""

from __future__ import annotations

from collections.abc import Callable

from mtembed.messages import WeightsFound
from mtembed.models import weights
from mtembed.run.plan import Plan
from mtembed.run.process import Job, ask
from mtembed.types import Weights


def fetch(plan: Plan, on_note: Callable[[str], None]) -> Weights:
    """The weights of a run, downloaded if need be.  Raises UsageError, WeightsError, WorkerError."""
    spec, option = plan.spec, plan.config.weights
    if option is not None or spec.published is None or spec.published.library in ("user", "packaged"):
        return weights.resolve(spec, option)
    if not plan.config.accept_licence:
        weights.require_open(spec)
    on_note(f"looking for {spec.published.file}")
    return ask("fetch", Job((), spec.name), WeightsFound).weights
