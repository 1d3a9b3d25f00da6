"""A model's network on one GPU, with the memory that batches of one shape need.

The shape is the same at every call, so that a cell's vectors do not depend on how many cells are beside it.  Where
memory does not suffice, it is halved, which ends the promise of equal bytes and is noted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtembed.engine.arithmetic import TORCH_DTYPE
from mtembed.engine.batch import Batch
from mtembed.engine.cutter import Cutter
from mtembed.engine.fused import fuse, widen
from mtembed.engine.independence import position_independent
from mtembed.engine.memory import is_out_of_memory, reason
from mtembed.engine.streams import Streams
from mtembed.messages import DeviceJob
from mtembed.models import ModelSpec
from mtembed.models.networks import optimise
from mtembed.notes import BatchHalved, Note, Unfused


class GpuNetwork:
    """Cuts and embeds batches of ``batch`` fragments, ``step`` of them per forward.

    ``golden`` is the network in float32 on the CPU, where ``keep_golden`` asks for it: to compare with later.
    """

    def __init__(
        self,
        job: DeviceJob,
        spec: ModelSpec,
        device: torch.device,
        streams: Streams,
        cutter: Cutter,
        keep_golden: bool = False,
    ) -> None:
        self.job, self.spec, self.device, self.streams, self.cutter = job, spec, device, streams, cutter
        self.bands = len(spec.bands_for(job.source))
        network = spec.build(job.weights, job.source, job.size)
        self.golden = copy.deepcopy(network) if keep_golden else None
        self.batch = self.step = job.batch
        self.notes: list[Note] = []  # not told yet
        self.fused = True
        self.position_independent = False  # until it was tried
        self._prepare(network)

    def _prepare(self, network: nn.Module) -> None:
        """Make the network that is run; ``room`` is how many channels it takes, ``bands`` of which count."""
        network = optimise(network, TORCH_DTYPE[self.job.precision], True)
        self.room = self.bands
        if self.fused:
            self.room = widen(network) or self.bands
            network = fuse(network)
        self.network = network.to(self.device)
        self.input = self._channels = torch.empty(0)

    def forward(self, batch: Batch) -> Tensor:
        """Queue a batch on the current stream; return its vectors, float32 [batch, D] on the device."""
        batch.cut.record()
        self.cutter(batch.cells, batch.fragments, self.input)
        batch.forward[0].record()
        vectors = self.embed_input()
        batch.forward[1].record()
        return vectors

    def embed_input(self) -> Tensor:
        """The network on ``input`` as it lies there; where memory does not suffice, in steps of half the size."""
        while True:
            try:
                return self._in_steps()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.step = self._halve(self.step)

    def _in_steps(self) -> Tensor:
        """``step`` fragments at a time, always as many: the last step may overlap the one before."""
        if self.step == self.batch:
            return self.embed(self._channels)
        vectors = torch.empty((self.batch, self.spec.dim), device=self.device)
        for first in range(0, self.batch, self.step):
            first = min(first, self.batch - self.step)
            vectors[first : first + self.step] = self.embed(self._channels[first : first + self.step])
        return vectors

    def embed(self, fragments: Tensor) -> Tensor:
        """Network input [n, room, size, size] on the device -> float32 [n, D]."""
        vectors: Tensor = self.network(fragments)
        return vectors

    # -- memory -------------------------------------------------------------------------------------------------

    def fit(self, make_batches: Callable[[int], list[Batch]]) -> list[Batch]:
        """Take all memory that batches need and try the network; halve their size until that works.

        ``make_batches(n)`` makes batches of ``n`` fragments.  A network whose joined steps do not run here is run as
        torch has it.  Raises ``torch.cuda.OutOfMemoryError`` where there is no memory for a single fragment.
        """
        while True:
            try:
                return self._allocate(make_batches)
            except Exception as error:
                if not is_out_of_memory(error):
                    self._without_fusion(error)
                    continue
            self.input = self._channels = torch.empty(0)
            self.batch = self.step = self._halve(self.batch)

    def _allocate(self, make_batches: Callable[[int], list[Batch]]) -> list[Batch]:
        shape = (self.batch, self.job.size, self.job.size, self.room)
        memory = torch.zeros(shape, dtype=TORCH_DTYPE[self.job.precision], device=self.device)
        self._channels = memory.permute(0, 3, 1, 2)  # channels_last
        self.input = self._channels[:, : self.bands]
        batches = make_batches(self.batch)
        self.streams.synchronize()  # what was filled on the default stream is used on others
        with self.streams.on(self.streams.compute):
            self._in_steps()
            self.position_independent = position_independent(self._in_steps, self.input)
        self.streams.synchronize()
        return batches

    def _halve(self, size: int) -> int:
        """Return half of ``size``; raise where that is nothing."""
        if size == 1:
            raise torch.cuda.OutOfMemoryError(f"card {self.job.card} has no memory for a single fragment")
        if self.streams.cuda:
            torch.cuda.empty_cache()
        self.notes.append(BatchHalved(self.job.card, size, size // 2))
        return size // 2

    def _without_fusion(self, error: Exception) -> None:
        """Build the network as torch has it, where that was not tried yet; raise ``error`` otherwise."""
        if not self.fused:
            raise error
        self.fused = False
        self.notes.append(Unfused(self.job.card, reason(error)))
        self._prepare(self.spec.build(self.job.weights, self.job.source, self.job.size))
