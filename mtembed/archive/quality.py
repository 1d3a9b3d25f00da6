"""Shares of nodata, saturated and cloudy pixels per fragment (``--extras``, ``--max-nodata``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

SATURATED_DN = 65535
S1_NODATA = -32768.0


@dataclass(frozen=True, slots=True)
class Quality:
    """float32 [n] shares in 0..1; ``cloud`` is None without a mask."""

    nodata: FloatArray
    saturated: FloatArray
    cloud: FloatArray | None

    def take(self, keep: npt.NDArray[np.bool_]) -> Quality:
        return Quality(self.nodata[keep], self.saturated[keep], None if self.cloud is None else self.cloud[keep])


def fragment_quality(
    planes: Sequence[npt.NDArray[Any]],
    nodata_value: float | None,
    cloud: npt.NDArray[np.uint8] | None,
    shape: tuple[int, int],
    offsets: npt.NDArray[np.int32],
    size: int,
) -> Quality:
    """Shares over fragments of ``size`` px at ``offsets`` [n, 2] (row, col) of a cell of ``shape`` pixels.

    A pixel is nodata where any plane is (Sentinel-2: 0; Sentinel-1: the tag, -32768, non-finite, 0), saturated where
    any plane is 65535, cloudy where Major TOM's mask is 1, 2 or 3.
    """
    nodata = np.zeros(shape, bool)
    saturated = np.zeros(shape, bool)
    for plane in planes:
        nodata |= _spread(nodata_mask(plane, nodata_value), shape)
        if plane.dtype == np.uint16:
            saturated |= _spread(plane == SATURATED_DN, shape)
    share = _shares(nodata, offsets, size)
    full = _shares(saturated, offsets, size)
    if cloud is None or shape[0] % cloud.shape[0] or shape[1] % cloud.shape[1]:
        return Quality(share, full, None)
    return Quality(share, full, _shares(_spread((cloud >= 1) & (cloud <= 3), shape), offsets, size))


def nodata_mask(plane: npt.NDArray[Any], tag: float | None) -> npt.NDArray[np.bool_]:
    if plane.dtype == np.uint16:
        return np.asarray(plane == 0)
    bad = ~np.isfinite(plane) | (plane == 0) | (plane == S1_NODATA)
    return np.asarray(bad if tag is None or np.isnan(tag) else bad | (plane == np.float32(tag)))


def _spread(mask: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A coarse band's mask at the finest band's resolution (nearest)."""
    rows, cols = shape[0] // mask.shape[0], shape[1] // mask.shape[1]
    return mask if rows == cols == 1 else mask.repeat(rows, 0).repeat(cols, 1)


def _shares(mask: npt.NDArray[np.bool_], offsets: npt.NDArray[np.int32], size: int) -> FloatArray:
    """Share of set pixels per window, from one summed-area table."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, 0, dtype=np.int64), 1, out=table[1:, 1:])
    r, c = offsets[:, 0], offsets[:, 1]
    count = table[r + size, c + size] - table[r, c + size] - table[r + size, c] + table[r, c]
    return (count / (size * size)).astype(np.float32)
