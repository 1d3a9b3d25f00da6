"""Weights are looked for in a process of their own: the libraries that publish them load torch."""

from __future__ import annotations

from collections.abc import Callable

from mtembed import errors
from mtembed.errors import MtembedError, WorkerError
from mtembed.messages import Fatal, WeightsFound
from mtembed.models import weights
from mtembed.run import process
from mtembed.run.plan import Plan
from mtembed.run.worker import Job
from mtembed.types import Weights


def fetch(plan: Plan, on_note: Callable[[str], None]) -> Weights:
    """The weights of a run, downloaded if need be.  Raises UsageError, WeightsError, WorkerError."""
    spec, option = plan.spec, plan.config.weights
    if option is not None or spec.published is None:
        return weights.resolve(spec, option)
    on_note(f"looking for {spec.published.file}")
    worker = process.start("fetch", "fetch-0", Job((), spec.name))
    try:
        message = worker.connection.recv()
    except EOFError:
        raise WorkerError(f"the weights could not be looked for: the process {worker.cause_of_death()}") from None
    finally:
        worker.close()
    if isinstance(message, Fatal):
        raise getattr(errors, message.error, MtembedError)(message.message)
    assert isinstance(message, WeightsFound)
    return message.weights
