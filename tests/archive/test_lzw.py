"""The compiled LZW loop: a true inverse of independent encoders, and never outside its arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.archive.lzw import decode_strips, undo_differences


@pytest.mark.parametrize("count", [1, 2, 100, 5000, 70_000])
def test_lzw_of_constant_and_random_bytes(count: int) -> None:
    for data in (np.zeros(count, np.uint8), np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)):
        code = np.frombuffer(imagecodecs.lzw_encode(data.tobytes()), np.uint8)
        out = np.empty(count, np.uint8)
        sizes = [np.array([n]) for n in (0, code.size, count)]
        assert decode_strips(code, *sizes, out) == -1 and np.array_equal(out, data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=400), st.data())
def test_lzw_round_trip_and_cuts(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    raw = np.concatenate([np.full(n, value, np.uint8) for value, n in runs])
    code = np.frombuffer(imagecodecs.lzw_encode(raw.tobytes()), np.uint8)
    cut = data.draw(st.integers(0, code.size))
    guard = np.full(raw.size + 16, 0xEE, np.uint8)
    zero, size = np.array([0]), np.array([raw.size])
    assert decode_strips(code, zero, np.array([code.size]), size, guard[: raw.size]) == -1
    assert np.array_equal(guard[: raw.size], raw)
    decode_strips(code, zero, np.array([cut]), size, guard[: raw.size])
    assert (guard[raw.size :] == 0xEE).all()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 200))
def test_lzw_of_garbage_stays_inside(garbage: bytes, size: int) -> None:
    code = np.frombuffer(b"\x80" + garbage, np.uint8)
    guard = np.full(size + 16, 0xEE, np.uint8)
    assert decode_strips(code, np.array([0]), np.array([code.size]), np.array([size]), guard[:size]) in (-1, 0)
    assert (guard[size:] == 0xEE).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_undo_differences_is_a_running_sum(dtype: str) -> None:
    plane = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (5, 33), dtype=dtype)
    expected = np.cumsum(plane, axis=1, dtype=dtype)
    undo_differences(plane)
    assert np.array_equal(plane, expected)


def test_numba_cache_falls_back_where_it_cannot_write(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    code = (
        "import os, numpy, mtembed.archive.lzw as l; p = numpy.ones((2, 3), 'u1'); l.undo_differences(p); "
        "print(p[1].tolist(), os.environ['NUMBA_CACHE_DIR'])"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(blocked / "numba"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.startswith(f"[1, 2, 3] {tmp_path}")
    assert list(tmp_path.iterdir()) == [blocked], "the folder goes with its process"
