"""A GPU device with a ring of full slots, for the benchmarks: feeds it cells and reads what they took."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mtembed import machine, models
from mtembed.engine.arithmetic import exact_fp32
from mtembed.engine.gpu import GpuDevice
from mtembed.messages import DeviceJob, EmbedTask
from mtembed.types import CellTiming
from tests.tools.slots import fill, job, ring_for, slot_of, vectors

PRECISION = {"float16": "fp16", "bfloat16": "bf16", None: "fp32"}


def options() -> argparse.Namespace:
    """What ``bench.gpu`` tells the process of a step; prepares torch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--settle", type=float, default=30.0)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--batch", type=int)
    torch.set_grad_enabled(False)
    exact_fp32()
    return parser.parse_args()


def device_of() -> torch.device:
    return torch.device("cpu") if machine.cpu_cards() else torch.device("cuda", 0)


def tell(**found: Any) -> None:
    """One thing that was found."""
    print(json.dumps(found), flush=True)


def job_for(model: str, batch: int | None, precision: str | None = None) -> DeviceJob:
    """What a run would tell its device worker; fragments of a cell of Core divide the batch."""
    spec = models.get(model)
    per_cell = fragments_of(model)
    batch = batch or max(per_cell, spec.gpu_batch // per_cell * per_cell)
    precision = precision or PRECISION[spec.half]
    made = job(model, spec.source, spec.size, precision=precision, batch=batch, card=0)
    return replace(made, cells=-(-batch // per_cell) + 1)


def fragments_of(model: str) -> int:
    """Fragments of a cell of 1068 px."""
    return 9 if models.get(model).size == 384 else 25


class Fed:
    """A device with ``slots`` full slots of square cells of ``side`` px."""

    def __init__(self, wanted: DeviceJob, slots: int, side: int, kernel: str | None = None) -> None:
        self.job = wanted
        self.ring = ring_for(wanted, slots, side)
        self.gpu = GpuDevice(wanted, self.ring, device_of(), kernel)
        self.tasks = [fill(self.ring, index, wanted, side, side) for index in range(slots)]
        self.timings: list[CellTiming] = []

    def close(self) -> None:
        self.gpu.close()
        self.ring.close()

    def embed(self, order: Sequence[int]) -> None:
        """Cells in that order, each once, until all are answered."""
        outcomes = []
        for index in order:
            outcomes += self.gpu.take(self.tasks[index], slot_of(self.ring, self.tasks[index]))
        while self.gpu.patience_s is not None:
            outcomes += self.gpu.idle()
        for outcome in outcomes:
            if outcome.error:
                raise outcome.error

    def vectors(self, index: int) -> np.ndarray:
        return vectors(self.ring, self.tasks[index], self.job)

    def digest(self) -> str:
        """Of all vectors in the slots."""
        found = hashlib.sha256()
        for index in range(len(self.tasks)):
            found.update(self.vectors(index).tobytes())
        return found.hexdigest()

    def feed(self, seconds: float) -> float:
        """Cells per second while another cell is always at hand; counted between the first and the last answer."""
        waiting, times = list(range(len(self.tasks))), []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or self.gpu.patience_s is not None:
            outcomes = []
            if waiting and time.perf_counter() < until:
                task = self._again(self.tasks[waiting.pop()])
                outcomes = self.gpu.take(task, slot_of(self.ring, task))
            else:
                outcomes = self.gpu.idle()
            for outcome in outcomes:
                if outcome.error:
                    raise outcome.error
                times.append(time.perf_counter())
                waiting.append(outcome.task.slot.index)
                self.timings.append(outcome.task.timing)
        steady = [moment for moment in times if moment <= until]
        return (len(steady) - 1) / (steady[-1] - steady[0]) if len(steady) > 2 else float("nan")

    def _again(self, task: EmbedTask) -> EmbedTask:
        return replace(task, timing=CellTiming("bench", task.key[1], started=time.monotonic()))
