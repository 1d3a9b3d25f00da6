"""Fragment and normalise on one CPU thread: equal to the definition bit for bit.

A row of a coarser band serves several rows of a fragment, so it is normalised once, as one vectorised loop over its
own pixels, and then spread.  Doing the arithmetic beats a table of the 65,536 results: a division vectorises, a lookup
does not, and the tables of several bands do not fit into the first cache.

The functions of one pixel serve the CUDA backend too: numba compiles the same text for the device.  They are called in
vectorised loops, in which log10 stays the C library's as long as Intel's SVML (``icc-rt``) is not installed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed._numba import njit
from mtembed.kernels.fragment_numpy import ENCODINGS, RULES, Array, check, check_bounds, constants, is_channels_last
from mtembed.types import FloatArray, Normalisation

REFLECTANCE, RGB, DECIBEL, STANDARD, STANDARD_VALID, DECIBEL_STANDARD = RULES.values()
FLOAT32, FLOAT16, BFLOAT16 = ENCODINGS.values()

_ZERO, _ONE, _GAIN, _FULL = np.float32(0), np.float32(1), np.float32(2.5), np.float32(10000)
_INFINITY = np.float32(np.inf)
_SERIES = tuple(20 / math.log(10) / (2 * k + 1) for k in range(10))
_OCTAVE = 10 * math.log10(2)
_NAN_HALF, _NAN_BFLOAT16 = np.uint32(0x7E00), np.uint32(0x7FC0)
_B1, _B13, _B16, _B23 = np.uint32(1), np.uint32(13), np.uint32(16), np.uint32(23)


@njit
def level_of(pixel: Any, offset: Any, floor: Any) -> Any:
    """Take the radiometric offset off; ``floor`` is 0 for uint16 and -inf for float32."""
    level = pixel - offset
    return floor if level < floor else level


@njit
def reflectance_of(level: Any) -> Any:
    return level / _FULL


@njit
def unit_of(value: Any) -> Any:
    return _ZERO if value < _ZERO else (_ONE if value > _ONE else value)


@njit
def rgb_of(level: Any, mean: Any, std: Any) -> Any:
    return (unit_of(_GAIN * level / _FULL) - mean) / std


@njit
def standard_of(level: Any, mean: Any, std: Any) -> Any:
    value = np.divide(level - mean, std)  # numba's / may raise, and such loops do not vectorise
    return value if -_INFINITY < level < _INFINITY else _ZERO


@njit
def decibel_of(level: Any) -> Any:
    power = np.float64(level)
    return np.float32(10.0 * math.log10(power if power > 1e-10 else 1e-10))


@njit
def half_of(bits: Any) -> Any:
    """Bits of float16, rounded to nearest even, from bits (uint32) of float32."""
    sign = (bits >> _B16) & np.uint32(0x8000)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if magnitude >= np.uint32(0x477FF000):  # rounds to 65536 or more: infinity, or NaN
        return _NAN_HALF if magnitude > np.uint32(0x7F800000) else sign | np.uint32(0x7C00)
    if magnitude >= np.uint32(0x38800000):
        odd = (magnitude >> _B13) & _B1
        return sign | ((magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> _B13)
    if magnitude <= np.uint32(0x33000000):  # at most half of the smallest subnormal
        return sign
    shift = np.uint32(126) - (magnitude >> _B23)
    mantissa = (magnitude & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    odd = (mantissa >> shift) & _B1
    return sign | ((mantissa + (_B1 << (shift - _B1)) - _B1 + odd) >> shift)


@njit
def bfloat16_of(bits: Any) -> Any:
    """Bits of bfloat16, rounded to nearest even, from bits (uint32) of float32."""
    if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        return _NAN_BFLOAT16
    return (bits + np.uint32(0x7FFF) + ((bits >> _B16) & _B1)) >> _B16


@njit
def normalise_of(pixel: Any, rule: Any, low: Any, scale: Any, offset: Any, floor: Any, nodata: Any) -> Any:
    """One raw pixel (as float32) to network input; every argument but ``rule`` is float32."""
    level = level_of(pixel, offset, floor)
    if rule == REFLECTANCE:
        return reflectance_of(level)
    if rule == RGB:
        return rgb_of(level, low, scale)
    if pixel == nodata or (rule == STANDARD_VALID and level == _ZERO):
        return _ZERO
    if rule in (STANDARD, STANDARD_VALID):
        return standard_of(level, low, scale)
    if rule == DECIBEL:
        return unit_of((decibel_of(level) - low) / scale) if level >= _ZERO else _ZERO  # not of negatives and NaN
    return (decibel_of(level) - low) / scale if _ZERO < level < _INFINITY else _ZERO


@njit
def _encode(target: Any, values: Any, encoding: Any) -> None:
    """Write float32 values into ``target`` as bits: uint32 for float32, else uint16."""
    bits = values.view(np.uint32)
    if encoding == FLOAT32:
        for index in range(target.size):
            target[index] = bits[index]
    elif encoding == FLOAT16:
        for index in range(target.size):
            target[index] = half_of(bits[index])
    else:
        for index in range(target.size):
            target[index] = bfloat16_of(bits[index])


@njit
def _decibel_row(values: Any, pixels: Any, rule: Any, low: Any, span: Any, offset: Any, floor: Any, nodata: Any) -> Any:
    """``normalise_of`` for rules of decibels, four times faster; False where a value might differ in its last bit.

    With m between sqrt(1/2) and sqrt(2), 10 log10(m 2^e) = 10 log10(2) e + 20 / ln(10) artanh((m - 1) / (m + 1)) takes
    operations that vectorise.  Ten terms err by less than 2^-48 of the result, so a sum that rounds to one float32
    although 2^-44 is added or taken off rounds as the C library's log10 does.  One row in some thousands is not sure.
    """
    sure = True
    for index in range(values.size):
        pixel = np.float32(pixels[index])
        level = level_of(pixel, offset, floor)
        bits = np.float32(level).view(np.int32)
        exponent = np.int32(bits - 0x3F3504F3) >> 23
        mantissa = np.float64(np.int32(bits - (exponent << 23)).view(np.float32))
        ratio = np.divide(mantissa - 1.0, mantissa + 1.0)
        square = ratio * ratio
        total = 0.0
        for k in range(9, -1, -1):
            total = total * square + _SERIES[k]
        decibel = exponent * _OCTAVE + ratio * total
        if level < 1e-10:
            decibel = -100.0
        sure &= np.float32(decibel * (1 + 2.0**-44)) == np.float32(decibel * (1 - 2.0**-44))
        value = (np.float32(decibel) - low) / span
        if rule == DECIBEL:
            values[index] = unit_of(value) if level >= _ZERO and pixel != nodata else _ZERO
        else:
            values[index] = value if level > _ZERO and level < _INFINITY and pixel != nodata else _ZERO
    return sure


@njit
def _row(values: Any, pixels: Any, rule: Any, low: Any, scale: Any, offset: Any, floor: Any, nodata: Any) -> None:
    """``normalise_of`` for a row; a loop whose rule is a constant vectorises."""
    if rule == REFLECTANCE:
        for index in range(values.size):
            values[index] = normalise_of(np.float32(pixels[index]), REFLECTANCE, low, scale, offset, floor, nodata)
    elif rule == RGB:
        for index in range(values.size):
            values[index] = normalise_of(np.float32(pixels[index]), RGB, low, scale, offset, floor, nodata)
    elif rule == STANDARD:
        for index in range(values.size):
            values[index] = normalise_of(np.float32(pixels[index]), STANDARD, low, scale, offset, floor, nodata)
    elif rule == STANDARD_VALID:
        for index in range(values.size):
            values[index] = normalise_of(np.float32(pixels[index]), STANDARD_VALID, low, scale, offset, floor, nodata)
    else:
        for index in range(values.size):
            values[index] = normalise_of(np.float32(pixels[index]), rule, low, scale, offset, floor, nodata)


@njit
def _convert(target: Any, values: Any, raw: Any, plane: Any, row: Any, col: Any, size: Any, rules: Any) -> None:
    """Normalise and encode the pixels of one plane that one row of a fragment draws on, into the head of ``target``."""
    rule, encoding, low, scale, offset, floor, nodata = rules
    start = plane[0] + row // plane[2] * plane[1] + col // plane[3]
    count = (col + size - 1) // plane[3] - col // plane[3] + 1
    pixels = raw[start : start + count]
    decibels = rule in (DECIBEL, DECIBEL_STANDARD)
    if not decibels or not _decibel_row(values[:count], pixels, rule, low, scale, offset, floor, nodata):
        _row(values[:count], pixels, rule, low, scale, offset, floor, nodata)
    _encode(target[:count], values[:count], encoding)


@njit
def _nchw(
    raw: Any,
    planes: Any,
    fragments: Any,
    rule: Any,
    encoding: Any,
    low: Any,
    scale: Any,
    offsets: Any,
    floor: Any,
    nodata: Any,
    out: Any,
) -> None:
    """``out`` is [n, bands, size, size] of bits."""
    size = out.shape[3]
    values, pixels, source = np.empty(size, np.float32), np.empty(size, out.dtype), np.empty(size, np.uint32)
    for index in range(out.shape[0]):
        cell, row, col = np.int64(fragments[index, 0]), np.int64(fragments[index, 1]), np.int64(fragments[index, 2])
        for band in range(out.shape[1]):
            plane = planes[cell, band]
            rules = (rule, encoding, low[band], scale[band], offsets[cell], floor, nodata[cell])
            for c in range(size):
                source[c] = (col + c) // plane[3] - col // plane[3]
            for r in range(size):
                line = out[index, band, r]
                if r > 0 and (row + r) % plane[2] != 0:
                    above = out[index, band, r - 1]
                    for c in range(size):
                        line[c] = above[c]
                elif plane[3] == 1:
                    _convert(line, values, raw, plane, row + r, col, size, rules)
                else:
                    _convert(pixels, values, raw, plane, row + r, col, size, rules)
                    for c in range(size):
                        line[c] = pixels[source[c]]


@njit
def _nhwc(
    raw: Any,
    planes: Any,
    fragments: Any,
    rule: Any,
    encoding: Any,
    low: Any,
    scale: Any,
    offsets: Any,
    floor: Any,
    nodata: Any,
    out: Any,
) -> None:
    """``out`` is [n, size, size * bands] of bits; each of its rows is gathered from one row of pixels per band."""
    bands, size = planes.shape[1], out.shape[1]
    values, pixels = np.empty(size, np.float32), np.empty(bands * size, out.dtype)
    source = np.empty(size * bands, np.uint32)
    for index in range(out.shape[0]):
        cell, row, col = np.int64(fragments[index, 0]), np.int64(fragments[index, 1]), np.int64(fragments[index, 2])
        for band in range(bands):
            factor = planes[cell, band, 3]
            for c in range(size):
                source[c * bands + band] = band * size + (col + c) // factor - col // factor
        for r in range(size):
            for band in range(bands):
                plane = planes[cell, band]
                if r == 0 or (row + r) % plane[2] == 0:
                    rules = (rule, encoding, low[band], scale[band], offsets[cell], floor, nodata[cell])
                    own = pixels[band * size : band * size + size]
                    _convert(own, values, raw, plane, row + r, col, size, rules)
            line = out[index, r]
            for c in range(line.size):
                line[c] = pixels[source[c]]


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
    n, bands, size, _ = out.shape
    check_bounds(raw.size, planes, fragments, subtract, size)
    if not out.flags.writeable:
        raise ValueError("out must be writeable.")
    channels_last = is_channels_last(out)
    memory: npt.NDArray[Any] = out.transpose(0, 2, 3, 1) if channels_last else out
    if not memory.flags.c_contiguous:  # pixels with room for more channels
        packed = np.empty(memory.shape, memory.dtype).transpose(0, 3, 1, 2)
        fragment(raw, planes, fragments, subtract, nodata, normalisation, packed)
        out[...] = packed
        return
    offsets, floor, nodata = cell_constants(raw.dtype, subtract, nodata)
    bits = memory.view(np.uint32 if out.dtype == np.float32 else np.uint16)
    # Copies of the small tables are always writeable, so one compiled version serves every caller.
    tables = (planes.copy(), fragments.copy(), RULES[normalisation.rule], ENCODINGS[out.dtype])
    numbers = (*constants(normalisation, bands), offsets, floor, nodata)
    if channels_last:
        _nhwc(raw, *tables, *numbers, bits.reshape(n, size, size * bands))
    else:
        _nchw(raw, *tables, *numbers, bits)


def cell_constants(
    dtype: npt.DTypeLike, subtract: npt.NDArray[np.int32], nodata: npt.NDArray[np.float64]
) -> tuple[FloatArray, np.float32, FloatArray]:
    """Per cell the offset (0 for float32 pixels), the floor beneath levels and the nodata value, in float32.

    That changes nothing: a 16 bit pixel less an offset is exact in float32 or falls below the floor.
    """
    with np.errstate(over="ignore"):
        nodata_32 = nodata.astype(np.float32)
    if dtype == np.uint16:
        return subtract.astype(np.float32), np.float32(0), nodata_32
    return np.zeros(len(subtract), np.float32), np.float32(-np.inf), nodata_32
