"""Whether a network gives a fragment the same bits wherever in a batch it lies, and whatever lies beside it.

Equal bytes of a dataset made on GPUs rest on this: which fragments meet in a batch depends on which cell was decoded
first.  Libraries promise nothing here, so it is tried, on the device, when a worker starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHIFTS = (1, 25, 137)  # places by which a batch is rolled: the next, a cell of Core's, some tiles further


def position_independent(network: Callable[[], Tensor], batch: Tensor) -> bool:
    """Try ``network``, which embeds what lies in ``batch`` [n, bands, size, size]; the batch is written over.

    Rolled batches must give rolled vectors, and neighbours that are exchanged must not be noticed.
    """
    count = len(batch)
    rows = list(range(count))
    golden = _embedded(network, batch, rows)
    for shift in {shift % count for shift in SHIFTS}:
        rolled = _embedded(network, batch, rows[-shift:] + rows[:-shift])
        if not torch.equal(rolled, golden.roll(shift, 0)):
            return False
    for kept in (0, 1):
        mixed = _embedded(network, batch, [row if row % 2 == kept else count + row for row in rows])
        if not torch.equal(mixed[kept::2], golden[kept::2]):
            return False
    return True


def _embedded(network: Callable[[], Tensor], batch: Tensor, seeds: Sequence[int]) -> Tensor:
    """Vectors of noise, one seed a fragment; made in place, for there may be no memory for a second batch."""
    generator = torch.Generator(batch.device)
    for fragment, seed in zip(batch, seeds, strict=True):
        fragment.uniform_(generator=generator.manual_seed(seed))
    return network().clone()
