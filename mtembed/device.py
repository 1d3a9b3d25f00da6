"""Slot -> vectors: the device stage.  One fused kernel cuts, upsamples and normalises; the network does the rest.

This module is imported by device workers only; it is the one that loads torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mtembed import machine, models
from mtembed.errors import CellError
from mtembed.kernels.select import backend
from mtembed.messages import DeviceJob
from mtembed.models.networks import optimise
from mtembed.ring import Slot
from mtembed.types import CellTiming, DecodedCell

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNEL_DTYPE = {"fp32": np.float32, "bf16": np.uint16, "fp16": np.float16}  # bfloat16 travels as its bits


class Device(Protocol):
    """Computes the vectors of one cell into its slot."""

    name: str
    details: dict[str, Any]

    def embed(self, slot: Slot, cell: DecodedCell, timing: CellTiming) -> dict[str, Any]:
        """Fill the slot's vectors and the timing; returns notes for the manifest.  Raises CellError."""
        ...


def make_device(job: DeviceJob) -> Device:
    return CpuDevice(job)


class CpuDevice:
    """The network on ``threads`` cores.  A cell is a batch of its own, so its result cannot depend on its neighbours."""

    def __init__(self, job: DeviceJob) -> None:
        torch.set_num_threads(job.threads)
        torch.set_grad_enabled(False)
        self.job = job
        self.name = "cpu"
        self.details = {"device": machine.cpu_name(), "torch": torch.__version__}
        self.spec = models.get(job.model)
        self.normalisation = self.spec.normalisation_for(job.source)
        self.network = optimise(self.spec.build(job.weights, job.source, job.size), TORCH_DTYPE[job.precision], True)
        self.fragment = backend("auto", "cpu")
        bands = len(self.spec.bands_for(job.source))
        self.input = np.empty((job.batch, job.size, job.size, bands), KERNEL_DTYPE[job.precision])
        self.unchecked = job.check and job.precision != "fp32"

    def embed(self, slot: Slot, cell: DecodedCell, timing: CellTiming) -> dict[str, Any]:
        timing.ring_wait = (monotonic() - timing.started) * 1e3 - timing.read - timing.decode
        vectors = slot.vectors(len(cell.record.offsets), self.spec.dim)
        view = CellView(slot, cell)
        preprocess = forward = 0.0
        for first, last in micro_batches(len(vectors), self.job.batch):
            started = perf_counter()
            batch = self._cut(view, first, last)
            cut = perf_counter()
            vectors[first:last] = self.network(batch).numpy()
            preprocess += cut - started
            forward += perf_counter() - cut
        timing.preprocess, timing.forward = preprocess * 1e3, forward * 1e3
        if not np.isfinite(vectors).all():
            raise CellError("the network gave a vector that is not finite", "embed")
        return self._precision_check(view, vectors)

    def _cut(self, view: CellView, first: int, last: int) -> torch.Tensor:
        """Fragments ``first`` to ``last`` as network input, [n, bands, size, size] in channels-last memory."""
        out = self.input[: last - first].transpose(0, 3, 1, 2)
        self.fragment(
            view.raw, view.planes, view.fragments[first:last], view.subtract, view.nodata, self.normalisation, out
        )
        tensor = torch.from_numpy(out)
        return tensor.view(torch.bfloat16) if self.job.precision == "bf16" else tensor

    def _precision_check(self, view: CellView, vectors: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The first cell's first fragments once more in fp32: how far are we from the golden path?"""
        if not self.unchecked:
            return {}
        self.unchecked = False
        count = min(len(vectors), self.job.batch)
        shape = (count, *self.input.shape[1:])
        out = np.empty(shape, np.float32).transpose(0, 3, 1, 2)
        self.fragment(
            view.raw, view.planes, view.fragments[:count], view.subtract, view.nodata, self.normalisation, out
        )
        golden = self.spec.build(self.job.weights, self.job.source, self.job.size)(torch.from_numpy(out)).numpy()
        error = relative_l2(vectors[:count], golden)
        return {"precision_check": {
            "precision": self.job.precision, "fragments": count,
            "median_relative_l2": float(np.median(error)), "worst_relative_l2": float(error.max()),
        }}  # fmt: skip


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


def micro_batches(count: int, most: int) -> Sequence[tuple[int, int]]:
    """Cut ``count`` fragments into the fewest nearly equal runs of at most ``most``; depends on nothing else."""
    runs = max(1, -(-count // most))
    edges = [round(i * count / runs) for i in range(runs + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def relative_l2(vectors: npt.NDArray[np.float32], golden: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Per row: |v - g| / |g|, float64 [n]."""
    difference = np.linalg.norm(vectors.astype(np.float64) - golden, axis=1)
    return np.asarray(difference / np.maximum(np.linalg.norm(golden.astype(np.float64), axis=1), 1e-30))
