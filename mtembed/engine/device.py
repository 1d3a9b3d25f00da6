"""Slot -> vectors: the device stage.  One fused kernel cuts, upsamples and normalises; the network does the rest.

This module is imported by device workers only; it loads torch.  ``CpuDevice`` computes on cores of the CPU, ``Card``
(in ``cards.py``) on a GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mtembed import machine, models
from mtembed.engine.packed import pack
from mtembed.errors import CellError
from mtembed.kernels.select import backend
from mtembed.messages import DeviceJob, EmbedTask, Note, PrecisionCheck, WorkerReady
from mtembed.models import ModelSpec
from mtembed.models.networks import optimise
from mtembed.ring import Ring, Slot
from mtembed.types import CellTiming, DecodedCell, FloatArray

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BITS_DTYPE = {"fp32": torch.float32, "bf16": torch.uint16, "fp16": torch.float16}  # kernels write bfloat16 as its bits


@dataclass(slots=True)
class Outcome:
    """A cell that is done: its vectors are in its slot, or ``error`` says why not; ``notes`` go to the manifest."""

    task: EmbedTask
    notes: tuple[Note, ...] = ()
    error: CellError | None = None


class Device(Protocol):
    """Computes the vectors of cells into their slots, one cell or several at a time.

    ``ready`` are facts for the manifest that are known before the first cell.  ``patience_s`` is how long a worker
    should wait for another task before it calls ``idle``; None means for ever.
    """

    name: str
    ready: tuple[Note, ...]

    @property
    def patience_s(self) -> float | None: ...

    def take(self, task: EmbedTask, slot: Slot) -> list[Outcome]:
        """One more cell; returns those that are finished now, in any order, this one or others or none."""

    def idle(self) -> list[Outcome]:
        """No other cell is there to be taken: start what was waiting for company; returns what is finished."""

    def close(self) -> None:
        """Give the ring back; no call may follow."""


def make_device(job: DeviceJob, ring: Ring) -> Device:
    """The device of a worker; ``ring`` is its lane's."""
    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    exact_fp32()
    if job.card is None:
        return CpuDevice(job)
    from mtembed.engine.gpu import Card

    return Card(job, ring, torch.device("cpu") if machine.cpu_cards() else torch.device("cuda", 0))


def exact_fp32() -> None:
    """float32 means float32 (no TF32), and algorithms are never chosen by a race, whose winner changes the bits."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


class Network(Protocol):
    """A network with the memory for its input: float32, float16 or bits of bfloat16 [batch, bands, size, size]."""

    input: npt.NDArray[Any]
    versions: dict[str, str]

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
        self.versions = {"torch": str(torch.__version__)}

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
        self.spec = models.get(job.model)
        self.normalisation = self.spec.normalisation_for(job.source)
        self.network = _network(job, self.spec)
        self.fragment = backend("auto", "cpu")
        ready = WorkerReady(machine.cpu_name(), kernel_name(self.fragment), self.network.versions)
        self.ready: tuple[Note, ...] = (ready,)
        self.golden = job.engine == "torch" and job.precision == "fp32"

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
        """Fill the slot's vectors and the timing; returns notes for the manifest.  Raises CellError."""
        set_ring_wait(timing)
        vectors = slot.vectors(len(cell.record.offsets), self.spec.dim)
        view = CellView(slot, cell)
        preprocess = forward = 0.0
        for first, last in micro_batches(len(vectors), self.job.batch):
            started = perf_counter()
            self._cut(view, first, last, self.network.input[: last - first])
            cut = perf_counter()
            vectors[first:last] = self.network(last - first)
            preprocess += cut - started
            forward += perf_counter() - cut
        timing.preprocess, timing.forward = preprocess * 1e3, forward * 1e3
        require_finite(vectors)
        return (self._precision_check(view, vectors),) if check and not self.golden else ()

    def _cut(self, view: CellView, first: int, last: int, out: npt.NDArray[Any]) -> None:
        """Fragments ``first`` to ``last`` as network input into ``out``."""
        self.fragment(
            view.raw, view.planes, view.fragments[first:last], view.subtract, view.nodata, self.normalisation, out
        )

    def _precision_check(self, view: CellView, vectors: FloatArray) -> PrecisionCheck:
        """A cell's first fragments once more in fp32."""
        count = min(len(vectors), self.job.batch)
        out = np.empty((count, *self.network.input.shape[1:]), np.float32)
        self._cut(view, 0, count, out)
        golden = self.spec.build(self.job.weights, self.job.source, self.job.size)(torch.from_numpy(out)).numpy()
        return precision_check(self.job, vectors[:count], golden)


class CellView:
    """A decoded cell as the kernels want it: one flat array and small tables (see ``kernels/fragment_numpy.py``)."""

    def __init__(self, slot: Slot, cell: DecodedCell) -> None:
        itemsize = np.dtype(cell.dtype).itemsize
        reference = cell.record.georeference
        self.raw = slot.view.view(cell.dtype)
        self.planes = np.array(
            [[[p.offset // itemsize, p.cols, reference.rows // p.rows, reference.cols // p.cols] for p in cell.planes]],
            np.int64,
        )
        self.fragments = np.zeros((len(cell.record.offsets), 3), np.int32)
        self.fragments[:, 1:] = cell.record.offsets
        self.subtract = np.array([cell.subtract], np.int32)
        self.nodata = np.array([math.nan if cell.nodata_value is None else cell.nodata_value])


def set_ring_wait(timing: CellTiming) -> None:
    """What has passed since reading began and was neither reading nor decoding was waiting."""
    timing.ring_wait = (monotonic() - timing.started) * 1e3 - timing.read - timing.decode


def require_finite(vectors: FloatArray) -> None:
    """Raises CellError unless every value is a number."""
    if not np.isfinite(vectors).all():
        raise CellError("the network gave a vector that is not finite", "embed")


def micro_batches(count: int, most: int) -> Sequence[tuple[int, int]]:
    """Cut ``count`` fragments into the fewest nearly equal runs of at most ``most``; depends on nothing else."""
    runs = max(1, -(-count // most))
    edges = [round(i * count / runs) for i in range(runs + 1)]
    return list(itertools.pairwise(edges))


def relative_l2(vectors: FloatArray, golden: FloatArray) -> npt.NDArray[np.float64]:
    """Per row: |v - g| / |g|, float64 [n]."""
    difference = np.linalg.norm(vectors.astype(np.float64) - golden, axis=1)
    return np.asarray(difference / np.maximum(np.linalg.norm(golden.astype(np.float64), axis=1), 1e-30))


def precision_check(job: DeviceJob, vectors: FloatArray, golden: FloatArray) -> PrecisionCheck:
    """How far the same fragments' vectors are from the golden path (torch in fp32)."""
    error = relative_l2(vectors, golden)
    return PrecisionCheck(
        precision=job.precision,
        engine=job.engine,
        fragments=len(vectors),
        median_relative_l2=float(np.median(error)),
        worst_relative_l2=float(error.max()),
    )


def kernel_name(fragment: Any) -> str:
    """``numba``, ``cupy`` and so on: the backend a fragment kernel belongs to, by the file it stands in."""
    return str(fragment.__module__).rpartition("_")[2]
