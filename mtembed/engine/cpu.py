"""The network on cores of the CPU, one cell at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy.typing as npt
import torch

from mtembed import machine, models
from mtembed.engine.arithmetic import TORCH_DTYPE
from mtembed.engine.cutter import Cutter
from mtembed.engine.device import CellView, Outcome, vectors_in
from mtembed.engine.packed import pack
from mtembed.engine.precision import PrecisionCheck, require_finite
from mtembed.errors import CellError
from mtembed.kernels.select import backend, kernel_name
from mtembed.messages import DeviceJob, EmbedTask
from mtembed.models import ModelSpec
from mtembed.models.networks import optimise
from mtembed.notes import Note, WorkerReady
from mtembed.ring import Slot
from mtembed.types import CellTiming, DecodedCell, FloatArray

BITS_DTYPE = {"fp32": torch.float32, "bf16": torch.uint16, "fp16": torch.float16}  # kernels write bfloat16 as its bits


class Network(Protocol):
    """A network with the memory for its input: float32, float16 or bits of bfloat16 [batch, bands, size, size]."""

    input: npt.NDArray[Any]
    versions: Mapping[str, str]

    def __call__(self, count: int) -> FloatArray:
        """The first ``count`` fragments of ``input`` as vectors, float32 [count, D]; valid until the next call."""


class TorchNetwork:
    """torch on the CPU: batch norms folded, input in channels-last memory, weights as oneDNN wants them."""

    def __init__(self, job: DeviceJob, spec: ModelSpec) -> None:
        network = optimise(spec.build(job.weights, job.source, job.size), TORCH_DTYPE[job.precision], True)
        shape = (job.batch, len(spec.bands_for(job.source)), job.size, job.size)
        self.tensor = torch.empty(shape, dtype=TORCH_DTYPE[job.precision], memory_format=torch.channels_last)
        self.network = pack(network, self.tensor[:1].zero_())
        self.input = self.tensor.view(BITS_DTYPE[job.precision]).numpy()
        self.versions: Mapping[str, str] = {"torch": str(torch.__version__)}

    def __call__(self, count: int) -> FloatArray:
        vectors: FloatArray = self.network(self.tensor[:count]).numpy()
        return vectors


def _network(job: DeviceJob, spec: ModelSpec) -> Network:
    if job.engine == "openvino":
        from mtembed.engine.openvino import OpenVinoNetwork

        return OpenVinoNetwork(job, spec)
    return TorchNetwork(job, spec)


class CpuDevice:
    """The network on ``threads`` cores.  A cell is a batch of its own: its result cannot depend on its neighbours."""

    patience_s = None

    def __init__(self, job: DeviceJob) -> None:
        self.job = job
        self.name = "cpu"
        spec = models.get(job.model, job.model_card)
        self.spec = models.mapped(spec, job.size) if job.dense else spec
        self.network = _network(job, self.spec)
        kernel = backend()
        self.cutter = Cutter(kernel, self.spec.normalisation_for(job.source))
        self.check = PrecisionCheck(job, self.spec, self.cutter, torch.device("cpu"))
        self.ready: tuple[Note, ...] = (WorkerReady(machine.cpu_name(), kernel_name(kernel), self.network.versions),)

    def take(self, task: EmbedTask, slot: Slot) -> list[Outcome]:
        try:
            return [Outcome(task, self.embed(slot, task.decoded, task.timing, task.check))]
        except CellError as error:
            return [Outcome(task, error=error)]

    def idle(self) -> list[Outcome]:
        return []

    def close(self) -> None:
        return

    def embed(self, slot: Slot, cell: DecodedCell, timing: CellTiming, check: bool = False) -> tuple[Note, ...]:
        """Fill the slot's vectors and the timing; return notes for the manifest.  Raises CellError."""
        vectors = vectors_in(slot, len(cell.record.offsets), self.spec.dim)
        view = CellView(slot, cell)
        preprocess = forward = 0.0
        for first, last in micro_batches(len(vectors), self.job.batch):
            started = perf_counter()
            self.cutter(view, view.fragments[first:last], self.network.input[: last - first])
            cut = perf_counter()
            vectors[first:last] = self.network(last - first)
            preprocess += cut - started
            forward += perf_counter() - cut
        timing.preprocess, timing.forward = preprocess * 1e3, forward * 1e3
        require_finite(vectors)
        return (self.check(view, view.fragments, vectors),) if check and self.check.needed else ()


def micro_batches(count: int, most: int) -> Sequence[tuple[int, int]]:
    """Cut ``count`` fragments into the fewest nearly equal runs of at most ``most``; depends on nothing else."""
    runs = max(1, -(-count // most))
    edges = [round(i * count / runs) for i in range(runs + 1)]
    return list(itertools.pairwise(edges))
