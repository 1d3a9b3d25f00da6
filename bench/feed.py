"""What this host can feed to GPUs of a given speed, which need not be there.

    python -m bench.feed --rate 400 --lanes 2            # two GPUs of 400 cells/s each
    python -m bench.feed --rate 800 --lanes 8 --seconds 60 --output /fast/disk

Parent, decode workers, rings and writers are the product's; only the GPU is a stand-in that behaves like one: three
batches in flight, each of which takes the clock's time and none of the processor's, cells answered a batch at a time.
Vectors are numbers of a network's kind, so that they are printed, hashed and compressed like real ones.  Shards are
hard links to one of copies of the packaged cell (``noisy``: with noise in its pixels, as in the archive), so the page
cache holds them.  Prints the rate between the 20th and the 90th percentile of the cells, its share of what the devices
could take, the stage that limits, and the CPU time that a cell cost each kind of process.

``--decoded`` takes decoding away too: a decode worker decodes its first cell and answers every other with the same
record, so that a machine of few cores shows whether parent, rings, writers and finishers keep up.  ``--write`` runs
both ways; ``python -m bench.archive_cost`` works out from them what machines of more cores and devices would sustain.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench import end_to_end
from bench.gpu_run import all_ends, middle_rate
from bench.host_path import look, noisy
from mtembed import machine, models
from mtembed.config import RunConfig
from mtembed.messages import Decoded, DecodeTask, Embedded, EmbedTask, PlanTask, Ready
from mtembed.notes import WorkerReady
from mtembed.run import process, worker
from mtembed.run.embed import Run
from mtembed.run.plan import plan

RATE, DECODED = "MTEMBED_BENCH_RATE", "MTEMBED_BENCH_DECODED"
IN_FLIGHT = 3  # batches, as in mtembed.engine.gpu
PATIENCE_S = 0.02
EVERY_S = 0.2  # the processes' CPU time is looked at
RATES = (200.0, 400.0)  # of one device, without decoding
RESULTS = end_to_end.ROOT / "bench/results/feed.json"


class Paced:
    """Takes cells as a GPU does and answers them at a fixed rate."""

    def __init__(self, name: str, job: worker.Job, rate: float) -> None:
        self.rings, self.name, self.rate = worker.Rings(job), name, rate
        self.cells = max(1, job.work.cells - 1)  # of a batch
        self.some = np.random.default_rng(1).standard_normal((64, models.get(job.work.model).dim), np.float32)
        self.filling: list[EmbedTask] = []
        self.in_flight: deque[tuple[float, list[EmbedTask]]] = deque()
        self.free_at = 0.0

    def take(self, task: EmbedTask) -> Iterable[Embedded]:
        self.filling.append(task)
        if len(self.filling) < self.cells:
            return self._finished()
        waited = self._wait() if len(self.in_flight) == IN_FLIGHT else []
        self._start()
        return [*waited, *self._finished()]

    def idle(self) -> Iterable[Embedded]:
        found = self._finished()
        if self.filling and not self.in_flight:
            self._start()
        return found

    def patience_s(self) -> float | None:
        return PATIENCE_S if self.filling or self.in_flight else None

    def _start(self) -> None:
        self.free_at = max(self.free_at, time.monotonic()) + len(self.filling) / self.rate
        self.in_flight.append((self.free_at, self.filling))
        self.filling = []

    def _wait(self) -> list[Embedded]:
        time.sleep(max(0.0, self.in_flight[0][0] - time.monotonic()))
        return self._answer(self.in_flight.popleft()[1])

    def _finished(self) -> list[Embedded]:
        found: list[Embedded] = []
        while self.in_flight and self.in_flight[0][0] <= time.monotonic():
            found += self._answer(self.in_flight.popleft()[1])
        return found

    def _answer(self, tasks: list[EmbedTask]) -> list[Embedded]:
        return [self._embedded(task) for task in tasks]

    def _embedded(self, task: EmbedTask) -> Embedded:
        count = len(task.decoded.record.offsets)
        vectors = self.rings.slot(task.slot.lane, task.slot.index).vectors(count, self.some.shape[1])
        vectors[...] = self.some[:count]
        task.timing.device, task.timing.worker = "paced", f"{task.timing.worker} {self.name}"
        task.timing.forward = 1e3 / self.rate
        return Embedded(task.key, task.timing)


def device(name: str, job: worker.Job, send: Callable[[Any], None]) -> worker.Service:
    paced = Paced(name, job, float(os.environ[RATE]))
    send(Ready((WorkerReady("paced", "none", {}),)))
    return worker.Service(paced.take, idle=paced.idle, patience_s=paced.patience_s)


def decoder(name: str, job: worker.Job, send: Callable[[Any], None]) -> worker.Service:
    """The product's, whose first cell is the answer to every other."""
    service, first = worker.decoder(name, job, send), []

    def answer(task: PlanTask | DecodeTask) -> Iterable[Any]:
        if isinstance(task, PlanTask) or not first:
            found = list(service.answer(task))
            first.extend(found if isinstance(task, DecodeTask) else ())
            return found
        timing = replace(first[0].timing, shard=task.path.name, row_group=task.cell.row_group, started=time.monotonic())
        record = replace(first[0].decoded.record, row_group=task.cell.row_group)
        return [Decoded(task.key, timing, replace(first[0].decoded, record=record))]

    return worker.Service(answer)


def start(
    kind: str,
    name: str,
    job: Any,
    inherited: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> process.Worker:
    """The product's workers, but those that are stood in for."""
    ours = kind == "device" or (kind == "decode" and os.environ.get(DECODED))
    module = {"module": "bench.feed"} if ours else {}
    return process.start(kind, name, job, inherited, environment, **module)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="cells per second that one device takes")
    parser.add_argument("--lanes", type=int, default=1, help="devices")
    parser.add_argument("--model", default="ssl4eo-s2")
    parser.add_argument("--seconds", type=float, default=20.0, help="of work at that rate")
    parser.add_argument("--per-shard", type=int, default=500, help="cells of a shard")
    parser.add_argument("--noisy", action="store_true")
    parser.add_argument("--workers", type=int, help="decode processes; default: the product's")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--output", type=Path, help="a folder on the disk that is to be written to")
    parser.add_argument("--decoded", action="store_true", help="cells need no decoding")
    parser.add_argument("--write", action="store_true", help="run each way and keep it in results/feed.json")
    options = parser.parse_args(words)
    if not options.write:
        print(json.dumps(measure(options), indent=1))
        return
    ways = [{"decoded": False}, *({"decoded": True, "rate": rate} for rate in RATES)]
    found = [measure(argparse.Namespace(**{**vars(options), "noisy": True, **way})) for way in ways]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULTS.read_text())


class Costs(threading.Thread):
    """CPU time of the processes of a run, from the end of its first part, when all has been loaded and done once."""

    def __init__(self, parts: Path) -> None:
        super().__init__(daemon=True)
        self.parts = parts
        self.seen: dict[int, tuple[str, float]] = {}
        self.before: dict[str, float] = {}
        self.began = float("inf")
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(EVERY_S):
            look(os.getpid(), "parent", self.seen)
            if not self.before and any(self.parts.glob("*.parquet")):
                self.before, self.began = self._spent(), time.time()

    def per_cell(self, ends: np.ndarray) -> dict[str, float]:
        """Milliseconds of each kind of process; ``ends`` are the seconds since 1970 at which cells were done."""
        self.ended.set()
        self.join()
        cells = max(1, int((ends > self.began).sum()))
        return {kind: round((spent - self.before.get(kind, 0.0)) / cells, 3) for kind, spent in self._spent().items()}

    def _spent(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for kind, used in self.seen.values():
            spent[kind] = spent.get(kind, 0.0) + used
        return spent


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run; its rate in the steady middle, the limiting stage, and what a cell cost each kind of process."""
    os.environ |= {"MTEMBED_CPU_CARDS": str(options.lanes), RATE: str(options.rate)}
    os.environ[DECODED] = "yes" if options.decoded else ""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(end_to_end.ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-", dir=options.output) as name:
        shards = archive(Path(name), options)
        spec = models.get(options.model)
        config = RunConfig(
            (str(shards),),
            model=options.model,
            weights="random:1" if spec.trained else None,
            gpus=tuple(range(options.lanes)),
            batch=500,
            workers=options.workers,
            slots=options.slots,
            output=str(Path(name) / "out"),
        )
        began, costs = time.monotonic(), Costs(Path(name) / "out/embeddings")
        costs.start()
        summary = Run(plan(config), start=start).execute()
        ends = all_ends(Path(name) / "out/timings")
        rate = middle_rate(ends)
        manifest = json.loads((Path(name) / "out/manifest.json").read_text())
    return {
        "processor": machine.cpu_name(),
        "cores": machine.cores(),
        "model": options.model,
        "devices": options.lanes,
        "device_rate": options.rate,
        "cells": summary.cells,
        "seconds": round(time.monotonic() - began, 2),
        "cells_per_s": round(rate, 2),
        "of_the_devices": round(rate / (options.rate * options.lanes), 3),
        "limiting_stage": summary.limiting_stage,
        "decoded": options.decoded,
        "cpu_ms_per_cell": costs.per_cell(ends),
        "workers": manifest.get("workers"),
    }


def archive(folder: Path, options: argparse.Namespace) -> Path:
    """A folder of shards, each of ``--per-shard`` cells, that keep the devices busy for ``--seconds``."""
    wanted = max(options.per_shard, round(options.rate * options.lanes * options.seconds))
    first = end_to_end.archive(folder, options.model, 1)
    row = pq.read_table(first)
    row = noisy(row) if options.noisy else row
    with pq.ParquetWriter(first, row.schema) as writer:
        for _ in range(options.per_shard):
            writer.write_table(row)
    for number in range(1, -(-wanted // options.per_shard)):
        (first.parent / f"copy_{number:05d}.parquet").hardlink_to(first)
    return first.parent


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1] in ("device", "decode"):
        worker.main({**worker.KINDS, "device": device, "decode": decoder})
    else:
        main()
