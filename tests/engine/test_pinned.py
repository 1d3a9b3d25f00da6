"""A ring that cannot be pinned is said; what CUDA remembers of it needs a driver (``tests/gpu``)."""

from __future__ import annotations

import pytest
import torch

from mtembed.engine.pinned import PinnedRing
from mtembed.ring import Ring, RingShape


def test_a_refused_pinning_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine's GPU would pin the ring")
    ring = Ring.create(RingShape(2, 4096, 4096))
    pinned = PinnedRing(ring, torch.device("cuda"))
    assert pinned.slots == 0 and "0 of 2 slots are pinned" in pinned.problem
    pinned.close()
    ring.close()


def test_on_a_cpu_nothing_is_pinned() -> None:
    ring = Ring.create(RingShape(2, 4096, 4096))
    pinned = PinnedRing(ring, torch.device("cpu"))
    assert pinned.slots == 0 and not pinned.problem
