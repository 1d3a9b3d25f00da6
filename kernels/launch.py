"""What the launchers of ``fragment.cu`` have in common: its arguments and its grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtembed.kernels.fragment_numpy import ENCODINGS, RULES, Array
from mtembed.types import Rule

THREADS = 64
"""Threads per block; a block is one row of one fragment, and 224 or 384 columns leave few of its threads idle."""


def arguments(
    raw: Array,
    planes: Array,
    fragments: Array,
    subtract: Array,
    nodata: Array,
    low: Array,
    scale: Array,
    rule: Rule,
    out: Array,
) -> dict[str, Any]:
    """The kernel's arguments by the names of its parameters, in their order: arrays and numpy scalars."""
    strides = dict(zip(("by_fragment", "by_band", "by_row", "by_col"), _strides(out), strict=True))
    return {
        "raw": raw,
        "raw_is_uint16": np.int32(raw.dtype == np.uint16),
        "planes": planes,
        "fragments": fragments,
        "subtract": subtract,
        "nodata": nodata,
        "low": low,
        "scale": scale,
        "rule": np.int32(RULES[rule]),
        "encoding": np.int32(ENCODINGS[out.dtype]),
        "bands": np.int32(out.shape[1]),
        "size": np.int32(out.shape[2]),
        "out": out,
        **strides,
        "room": np.int32(_room(*strides.values())),
    }


def grid(n: int, size: int) -> tuple[int, int]:
    """Blocks for ``n`` fragments of ``size`` px; rows beyond the axis's 65,535 are strided over."""
    return n, min(size, 65535)


def _strides(out: Array) -> list[np.int64]:
    return [np.int64(stride // out.dtype.itemsize) for stride in out.strides]


def _room(by_fragment: np.int64, by_band: np.int64, by_row: np.int64, by_col: np.int64) -> int:
    """Channels per pixel where the kernel may write eight of them at once, else 0.

    A whole buffer of the kind that allocators return begins on a multiple of 16 bytes, and so does every pixel then.
    """
    return int(by_col) if by_band == 1 and by_col % 8 == 0 else 0
