"""Slots do not overlap, planes are aligned, and what does not fit is an error with a size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.errors import CellError
from mtembed.ring import Ring, RingShape


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create(RingShape(3, 1000, 100_000))
    yield ring
    ring.close()


def test_slots_are_apart(ring: Ring) -> None:
    for index in range(3):
        ring.slot(index).view[:] = index + 1
    assert [set(ring.slot(index).view.tolist()) for index in range(3)] == [{1}, {2}, {3}]


def test_what_one_process_writes_another_mapping_sees(ring: Ring) -> None:
    import os

    plane, pixels = ring.slot(1).place(10, 20, "uint16")
    pixels[:] = np.arange(200).reshape(10, 20)
    other = Ring.attach(os.dup(ring.fd), ring.shape)
    seen = other.slot(1).plane(plane, "uint16").copy()
    del pixels
    other.close()
    assert (seen == np.arange(200).reshape(10, 20)).all()


def test_vectors_and_planes_share_no_byte(ring: Ring) -> None:
    slot = ring.slot(0)
    _, pixels = slot.place(50, 50, "float32")
    pixels[:] = 7
    slot.vectors(25, 10)[:] = 1
    assert (pixels == 7).all()


def test_vectors_never_reach_into_the_planes(ring: Ring) -> None:
    slot = ring.slot(0)
    assert slot.vectors(25, 10).nbytes == 1000 and slot.has_room_for(25, 10) and not slot.has_room_for(26, 10)
    with pytest.raises(ValueError, match="26 vectors of 10 values do not fit into the 1000 bytes"):
        slot.vectors(26, 10)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=12))
def test_planes_are_aligned_and_disjoint(sizes: list[tuple[int, int]]) -> None:
    ring = Ring.create(RingShape(1, 100, 100_000))
    slot, end = ring.slot(0), 0
    for rows, cols in sizes:
        plane, _ = slot.place(rows, cols, "uint16")
        assert plane.offset % 64 == 0 and plane.offset >= end
        end = plane.offset + 2 * rows * cols
    assert end <= ring.shape.slot_bytes
    del slot
    ring.close()


def test_a_band_that_cannot_fit_is_refused_with_its_size(ring: Ring) -> None:
    with pytest.raises(CellError, match="100000 x 100000"):
        ring.slot(0).place(100_000, 100_000, "uint16")


def test_the_ring_has_no_name_in_dev_shm(ring: Ring) -> None:
    folder = Path("/dev/shm")
    assert not folder.exists() or not [p for p in folder.iterdir() if "mtembed" in p.name]
