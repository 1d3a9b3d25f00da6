"""Fragment and normalise: the definition, slow and obvious, and the checks that every backend shares.

A backend is one function ``fragment(raw, planes, fragments, subtract, nodata, normalisation, out)``:

raw         1-D, uint16 or float32: the decoded planes of one or several cells
planes      int64 [cells, bands, 4] = (first element, row stride in elements, row factor, column factor)
fragments   int32 [n, 3] = (cell, row, col) in pixels of the finest band
subtract    int32 [cells], the radiometric offset: uint16 pixels become max(x - subtract, 0); float32 ones stay
nodata      float64 [cells], NaN for none; rules of decibels and standard ones map pixels equal to float32(nodata) to 0
out         [n, bands, size, size], contiguous as NCHW or as NHWC (channels_last); float32, float16, or uint16 holding
            the bits of bfloat16; 16 bit values are the float32 ones rounded to nearest even.  As NHWC, pixels may have
            room for more channels; a GPU may set these to 0

Pixel (r, c) of band b of a fragment is ``raw[first + (row + r) // row_factor * stride + (col + c) // col_factor]``,
normalised by the rule of its band.  All arithmetic is float32 in the written order, except log10.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray, Normalisation, Rule

Array: TypeAlias = Any
"""A numpy array for CPU backends, a device array (or a torch tensor on the device) for GPU backends."""

RULES: dict[Rule, int] = {
    "reflectance": 0,
    "rgb": 1,
    "decibel": 2,
    "standard": 3,
    "standard-valid": 4,
    "decibel-standard": 5,
}
ENCODINGS: dict[np.dtype[Any], int] = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 2}

_log10 = np.vectorize(math.log10, otypes=[np.float64])
"""The C library's log10, which compiled kernels call too; np.log10 may be a SIMD version that rounds otherwise."""


def fragment(
    raw: Array,
    planes: Array,
    fragments: Array,
    subtract: Array,
    nodata: Array,
    normalisation: Normalisation,
    out: Array,
) -> None:
    """Cut, upsample (nearest), normalise and cast into ``out``; ValueError if an argument does not fit."""
    check(raw, planes, fragments, subtract, nodata, normalisation, out)
    check_bounds(raw.size, planes, fragments, subtract, out.shape[2])
    low, scale = constants(normalisation, planes.shape[1])
    side = np.arange(out.shape[2], dtype=np.int64)
    for index, (cell, row, col) in enumerate(fragments):
        for band, (first, stride, row_factor, col_factor) in enumerate(planes[cell]):
            rows, cols = (row + side) // row_factor, (col + side) // col_factor
            pixels = raw[first + rows[:, None] * stride + cols]
            values = normalise(pixels, normalisation.rule, low[band], scale[band], subtract[cell], nodata[cell])
            out[index, band] = encode(values, out.dtype)


@np.errstate(over="ignore", invalid="ignore")  # a nodata tag beyond float32; signalling NaN
def normalise(
    pixels: npt.NDArray[Any], rule: str, low: np.float32, scale: np.float32, subtract: int = 0, nodata: float = math.nan
) -> FloatArray:
    """Network input (float32) of raw pixels of one band; ``low`` and ``scale`` come from ``constants``."""
    if pixels.dtype == np.uint16:
        levels = np.maximum(pixels.astype(np.int64) - subtract, 0).astype(np.float32)
    else:
        levels = pixels
    if rule == "reflectance":
        return levels / np.float32(10000)
    if rule == "rgb":
        return (_unit(np.float32(2.5) * levels / np.float32(10000)) - low) / scale
    known = pixels.astype(np.float32) != np.float32(nodata)
    if rule in ("standard", "standard-valid"):
        valid = known & np.isfinite(levels) & ((rule == "standard") | (levels != 0))
        return np.where(valid, (levels - low) / scale, np.float32(0))
    finite = (levels > 0) & (levels < np.inf)
    valid = known & ((levels >= 0) if rule == "decibel" else finite)
    power = np.where(valid, levels, np.float32(1)).astype(np.float64)
    decibel = (10 * _log10(np.maximum(power, 1e-10))).astype(np.float32)
    values = (decibel - low) / scale
    return np.where(valid, _unit(values) if rule == "decibel" else values, np.float32(0))


def _unit(values: FloatArray) -> FloatArray:
    """Clip to 0..1; NaN stays."""
    zero, one = np.float32(0), np.float32(1)
    return np.where(values < zero, zero, np.where(values > one, one, values))


def encode(values: FloatArray, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """float32 values as ``dtype``, rounded to nearest even; uint16 means the bits of bfloat16.  16 bit NaN are one."""
    if dtype == np.float32:
        return values
    if dtype == np.float16:
        with np.errstate(over="ignore"):
            return np.where(np.isnan(values), np.float16(math.nan), values.astype(np.float16))
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


@functools.lru_cache(maxsize=64)
def constants(normalisation: Normalisation, bands: int) -> tuple[FloatArray, FloatArray]:
    """What a rule subtracts and divides by, float32 [bands] each: mean and std, or mean - 2 std and 4 std (decibel).

    Computed in float64 and rounded once.  The rule ``reflectance`` uses neither.
    """
    if normalisation.rule == "reflectance":
        low, scale = np.zeros(bands), np.ones(bands)
    else:
        low, scale = np.array(normalisation.mean, np.float64), np.array(normalisation.std, np.float64)
    if normalisation.rule == "decibel":
        low, scale = low - 2 * scale, 4 * scale
    pair = low.astype(np.float32), scale.astype(np.float32)
    for array in pair:
        array.setflags(write=False)
    return pair


def check(
    raw: Array,
    planes: Array,
    fragments: Array,
    subtract: Array,
    nodata: Array,
    normalisation: Normalisation,
    out: Array,
) -> None:
    """Raise ValueError unless shapes, dtypes, layout and constants fit; reads no elements (device arrays may come)."""
    cells, bands = (*planes.shape, 0, 0)[:2]
    n, size = (*fragments.shape, 0)[0], (0, *out.shape)[-1]
    _expect("planes", planes, (cells, bands, 4), np.int64)
    _expect("fragments", fragments, (n, 3), np.int32)
    _expect("subtract", subtract, (cells,), np.int32)
    _expect("nodata", nodata, (cells,), np.float64)
    _expect("out", out, (n, bands, size, size), *ENCODINGS)
    _expect("raw", raw, tuple(raw.shape[:1]), np.uint16, np.float32)
    for name, table in (("raw", raw), ("planes", planes), ("fragments", fragments)):
        if not _is_contiguous(table.shape, table.strides, table.dtype.itemsize):
            raise ValueError(f"{name} must be contiguous.")
    if size < 1 or bands < 1:
        raise ValueError(f"out of shape {tuple(out.shape)} has no pixels.")
    is_channels_last(out)
    _check_normalisation(normalisation, bands)


def _expect(name: str, array: Array, shape: tuple[int, ...], *dtypes: npt.DTypeLike) -> None:
    known = [np.dtype(dtype) for dtype in dtypes]
    if tuple(array.shape) != shape or array.dtype not in known:
        wanted = " or ".join(map(str, known))
        raise ValueError(f"{name} must be {wanted} {list(shape)}, not {array.dtype} {list(array.shape)}.")


def _check_normalisation(normalisation: Normalisation, bands: int) -> None:
    if normalisation.rule not in RULES:
        raise ValueError(f"The normalisation rule {normalisation.rule!r} is none of {', '.join(RULES)}.")
    if normalisation.rule == "reflectance":
        return
    mean, std = normalisation.mean, normalisation.std
    if len(mean) != bands or len(std) != bands:
        raise ValueError(f"The rule {normalisation.rule} needs {bands} means and stds, not {len(mean)} and {len(std)}.")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and min(std) > 0):
        raise ValueError("Means must be finite and stds finite and positive.")


def is_channels_last(out: Array) -> bool:
    """Whether [n, bands, rows, cols] lies in memory as NHWC rather than NCHW; ValueError if it is neither.

    Pixels of NHWC may have room for more channels than there are bands.
    """
    (n, bands, rows, cols), (by_n, by_band, by_row, by_col) = tuple(out.shape), tuple(out.strides)
    itemsize = out.dtype.itemsize
    if _is_contiguous((n, bands, rows, cols), (by_n, by_band, by_row, by_col), itemsize):
        return False
    if _is_contiguous((n, rows, cols, bands), (by_n, by_row, by_col, by_band), itemsize):
        return True
    if bands == 1 or by_band == itemsize:
        room = by_col // itemsize
        if room > bands and _is_contiguous((n, rows, cols, room), (by_n, by_row, by_col, itemsize), itemsize):
            return True
    raise ValueError(f"out with strides {tuple(out.strides)} is contiguous neither as NCHW nor as NHWC.")


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """C order; strides of axes with one element do not matter, nor do any when there are no elements."""
    if 0 in shape:
        return True
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True


def check_bounds(
    elements: int,
    planes: npt.NDArray[np.int64],
    fragments: npt.NDArray[np.int32],
    subtract: npt.NDArray[np.int32],
    size: int,
) -> None:
    """Raise ValueError unless every pixel of every fragment lies in its row of a plane, and in ``raw``'s elements."""
    if (subtract < 0).any():
        raise ValueError("subtract must not be negative.")
    first, stride, row_factor, col_factor = np.moveaxis(planes, -1, 0)
    if (planes[..., 2:] < 1).any() or (planes[..., 2:] > 1 << 30).any() or (planes[..., :2] < 0).any():
        raise ValueError("planes must have factors from 1 to 2^30, and neither starts nor strides below 0.")
    cell, row, col = fragments.astype(np.int64).T
    if (cell < 0).any() or (cell >= len(planes)).any() or (row < 0).any() or (col < 0).any():
        raise ValueError(f"fragments must name one of {len(planes)} cells and start at rows and columns from 0.")
    last_row = (row[:, None] + size - 1) // row_factor[cell]
    last_col = (col[:, None] + size - 1) // col_factor[cell]
    # Division instead of a product, which could overflow for a senseless stride.
    rows_inside = (elements - 1 - first[cell] - last_col) // np.maximum(stride[cell], 1)
    inside = (last_col < stride[cell]) & (first[cell] < elements) & (last_row <= rows_inside)
    if not inside.all():
        index, band = np.argwhere(~inside)[0]
        raise ValueError(f"Fragment {index} reaches beyond the plane of band {band} or raw's {elements} elements.")
