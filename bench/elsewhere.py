"""A run whose network computes elsewhere: like a GPU, its device worker takes its time and leaves the processor alone.

    python -m bench.elsewhere run MODEL OUTPUT SHARDS...

Everything else is the product's.  Vectors are numbers of a network's kind, so that they are printed, hashed and
compressed like real ones.  ``host_path.py`` measures such a run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtembed import models
from mtembed.config import RunConfig
from mtembed.dataset.settings import cpu_layout
from mtembed.messages import Embedded, EmbedTask, Ready
from mtembed.notes import WorkerReady
from mtembed.run import process, worker
from mtembed.run.embed import Run
from mtembed.run.plan import plan

CELL_MS = "MTEMBED_BENCH_CELL_MS"


def device(name: str, job: worker.Job, send: Callable[[Any], None]) -> worker.Service:
    """A cell takes so many milliseconds of the clock, none of the processor's."""
    rings, seconds = worker.Rings(job), float(os.environ[CELL_MS]) / 1e3
    some = np.random.default_rng(1).standard_normal((64, models.get(job.work.model).dim), np.float32)
    free_at = time.monotonic()

    def take(task: EmbedTask) -> Iterable[Embedded]:
        nonlocal free_at
        vectors = rings.slot(task.slot.lane, task.slot.index).vectors(len(task.decoded.record.offsets), some.shape[1])
        vectors[...] = some[: len(vectors)]
        free_at = max(free_at, time.monotonic()) + seconds
        time.sleep(max(0.0, free_at - time.monotonic()))
        task.timing.device, task.timing.worker = "elsewhere", f"{task.timing.worker} {name}"
        return [Embedded(task.key, task.timing)]

    send(Ready((WorkerReady("elsewhere", "none", {}),)))
    return worker.Service(take)


def start(
    kind: str,
    name: str,
    job: worker.Job,
    inherited: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> process.Worker:
    """The product's workers, but those of the device; these share the time of a cell among themselves."""
    if kind != "device":
        return process.start(kind, name, job, inherited, environment)
    workers = cpu_layout(models.get(job.work.model))[0]
    cell_ms = {CELL_MS: str(float(os.environ[CELL_MS]) * workers)}
    return process.start(kind, name, job, inherited, {**(environment or {}), **cell_ms}, module="bench.elsewhere")


def main() -> None:
    if sys.argv[1] == "run":
        model, output, *shards = sys.argv[2:]
        weights = None if model == "rcf" else "random:1"
        Run(plan(RunConfig(tuple(shards), model=model, weights=weights, output=output)), start=start).execute()
    else:
        worker.main({**worker.KINDS, "device": device})


if __name__ == "__main__":
    main()
