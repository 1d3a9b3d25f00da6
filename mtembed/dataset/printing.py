"""``str()`` of a float32 numpy array, for vectors of up to 1000 values: of longer ones numpy prints six values only.

The recipe of ``unique_id`` hashes that text, which costs numpy milliseconds for 768 values.  The same text is written
here by exact integer arithmetic.  A float32 is m * 2**e with m < 2**24, so for 2**-26 <= |x| < 1e6 the product
m * 5**s that brings nine significant digits before the point fits 63 bits, and every digit, every rounding and the
question whether digits still name the same float are integer comparisons.  Zero belongs to the fast path too; a vector
with anything else (tiny, from 1e6 on, NaN, infinite) is printed by numpy itself.  numpy 2.3 moved its limit for
exponents from 1e8 to 1e6, so below 1e6 all versions agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed._numba import njit

Vectors = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Row = npt.NDArray[np.float32]
Text = npt.NDArray[np.uint8]

# numpy's documented print defaults (numpy.set_printoptions).
_THRESHOLD = 1000
_EDGE = 3
_PRECISION = 8
_LAST_COLUMN = 74  # linewidth 75, less the closing bracket
_RATIO = np.float32(1000.0)  # numpy prints exponents when max / min exceeds it ...
_SMALL = np.float32(1e-4)  # ... or min is below this

_LOWEST = np.float32(2.0**-26)  # about 1.5e-8
_BEYOND = np.float32(1e6)
_DIGITS = 9  # enough to name any float32
_TEN = 10 ** np.arange(10, dtype=np.int64)
_FIVE = 5 ** np.arange(18, dtype=np.int64)
# No float32 lies between 10**-i and its double, so comparisons with these are exact.
_POWERS = np.array([float(f"1e{i}") for i in range(-8, 6)])
_WORD_BYTES = 19  # sign, 6 + 8 digits, point, separator, line break and indent
_DEFAULTS: dict[str, Any] = {
    "precision": _PRECISION,
    "threshold": _THRESHOLD,
    "edgeitems": _EDGE,
    "linewidth": 75,
    "suppress": False,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "floatmode": "maxprec",
    "formatter": None,
    "legacy": False,
}


def print_vectors(vectors: Vectors) -> list[bytes]:
    """Return ``str(row.astype(float32))`` under numpy's default print options for each row of [n, D], as ASCII."""
    values = np.ascontiguousarray(vectors, np.float32)
    summarised = values.shape[1] > _THRESHOLD
    shown = np.concatenate([values[:, :_EDGE], values[:, -_EDGE:]], axis=1) if summarised else values
    text = np.empty((len(shown), (shown.shape[1] + 1) * _WORD_BYTES), np.uint8)
    lengths = np.zeros(len(shown), np.int64)
    _write_rows(shown, _EDGE if summarised else -1, text, lengths)
    return [
        line[:length].tobytes() if length else _numpy_text(row)
        for row, line, length in zip(values, text, lengths.tolist(), strict=True)
    ]


def _numpy_text(row: Row) -> bytes:
    with np.printoptions(**_DEFAULTS):
        return str(row).encode()


@njit
def _write_rows(shown: Row, gap: int, text: Text, lengths: npt.NDArray[np.int64]) -> None:
    """Print each row of ``shown`` [n, k] into ``text`` [n, bytes]; a length of 0 leaves the row to numpy."""
    for i in range(len(shown)):
        row = shown[i]
        least, most, regular = _range(row)
        if regular and len(row):
            exponents = bool(most > 0 and (least < _SMALL or most / least > _RATIO))
            lengths[i] = _write_row(row, gap, exponents, text[i])


@njit
def _range(row: Row) -> tuple[np.float32, np.float32, bool]:
    """Return the least and greatest non-zero magnitude, and whether all values are within the exact range."""
    least, most = _BEYOND, np.float32(0)
    for x in row:
        size = abs(x)
        if size != 0:
            if not _LOWEST <= size < _BEYOND:
                return least, most, False
            least, most = min(least, size), max(most, size)
    return least, most, True


@njit
def _scaled(x: np.float32) -> tuple[int, int, int, int, int]:
    """Return (value, shift, below, above, exponent): |x| = value * 2**-shift * 10**(exponent - 8).

    A number rounds to x as long as it is no more than ``below`` under or ``above`` over it, in the unit of ``value``.
    The real margins are odd halves (quarters below a power of two), so their floors decide and no tie can occur.
    """
    bits = int(np.float32(abs(x)).view(np.int32))
    mantissa = (bits & 0x7FFFFF) | 0x800000
    exponent = 5
    while abs(np.float64(x)) < _POWERS[exponent + 8]:
        exponent -= 1
    scale = _DIGITS - 1 - exponent
    shift = 150 - (bits >> 23) - scale
    five = _FIVE[scale]
    return mantissa * five, shift, five >> (2 if mantissa == 0x800000 else 1), five >> 1, exponent


@njit
def _rounded(value: int, shift: int, below: int, above: int, digits: int) -> tuple[int, bool]:
    """Round a scaled value to so many significant digits; return them as an integer and whether they still name x.

    If only one neighbour names x it is taken, else the nearer one, and the even one of two equally near.
    """
    unit = _TEN[_DIGITS - digits] << shift
    digit = value // unit
    rest = value - digit * unit
    low, high = rest <= below, unit - rest <= above
    up = high if low != high else (2 * rest > unit or (2 * rest == unit and digit & 1 == 1))
    return digit + int(up), low or high


@njit
def _shortest(value: int, shift: int, below: int, above: int) -> int:
    digits = _DIGITS
    while digits > 1 and _rounded(value, shift, below, above, digits - 1)[1]:
        digits -= 1
    return digits


@njit
def _fixed_point(x: np.float32) -> tuple[int, int, int]:
    """Return (number, decimals, whole): |x| is printed as number / 10**decimals, ``whole`` digits before the point."""
    if x == 0:
        return 0, 0, 1
    value, shift, below, above, exponent = _scaled(x)
    decimals = max(0, min(_PRECISION, _shortest(value, shift, below, above) - 1 - exponent))
    number = _rounded(value, shift, below, above, decimals + 1 + exponent)[0]
    while decimals > 0 and number % 10 == 0:
        number //= 10
        decimals -= 1
    whole = 1
    while whole + decimals < 10 and number >= _TEN[whole + decimals]:
        whole += 1
    return number, decimals, whole


@njit
def _scientific(x: np.float32, decimals: int) -> tuple[int, int]:
    """Return (number, exponent): |x| is printed as number / 10**decimals * 10**exponent."""
    if x == 0:
        return 0, 0
    value, shift, below, above, exponent = _scaled(x)
    number = _rounded(value, shift, below, above, decimals + 1)[0]
    if number == _TEN[decimals] * 10:
        return _TEN[decimals], exponent + 1
    return number, exponent


@njit
def _widths(row: Row, exponents: bool) -> tuple[int, int]:
    """Return the common numbers of characters before (with sign) and after the point."""
    left, right = 1, 0
    for x in row:
        if exponents:
            whole = 1
            if x != 0 and right < _DIGITS - 1:
                value, shift, below, above, _ = _scaled(x)
                right = max(right, _shortest(value, shift, below, above) - 1)
        else:
            _, decimals, whole = _fixed_point(x)
            right = max(right, decimals)
        left = max(left, whole + int(np.signbit(x)))
    return left, right


@njit
def _write_row(row: Row, gap: int, exponents: bool, text: Text) -> int:
    """Print one vector with ``...`` before element ``gap``; return the number of bytes."""
    left, right = _widths(row, exponents)
    width = left + 1 + right + (4 if exponents else 0)
    text[0] = ord("[")
    at = column = 1
    for i in range(len(row)):
        if i == gap:
            at, column = _break_line(text, at, column, 3)
            text[at : at + 3], text[at + 3] = ord("."), ord(" ")
            at, column = at + 4, column + 4
        at, column = _break_line(text, at, column, width)
        if exponents:
            number, exponent = _scientific(row[i], right)
            at = _put_number(text, at, number, right, 1, np.signbit(row[i]), left, right)
            at = _put_exponent(text, at, exponent)
        else:
            number, decimals, whole = _fixed_point(row[i])
            at = _put_number(text, at, number, decimals, whole, np.signbit(row[i]), left, right)
        text[at] = ord(" ")
        at, column = at + 1, column + width + 1
    text[at - 1] = ord("]")
    return at


@njit
def _break_line(text: Text, at: int, column: int, width: int) -> tuple[int, int]:
    """Start a line, indented by one, where a word of ``width`` does not fit any more; no line ends with blanks."""
    if column == 1 or column + width <= _LAST_COLUMN:
        return at, column
    while text[at - 1] == ord(" "):
        at -= 1
    text[at], text[at + 1] = ord("\n"), ord(" ")
    return at + 2, 1


@njit
def _put_number(
    text: Text, at: int, number: int, decimals: int, whole: int, negative: bool, left: int, right: int
) -> int:
    """Write ``number`` / 10**decimals with its point at ``at + left``, padded with blanks on both sides."""
    point = at + left
    text[at : point + 1 + right] = ord(" ")
    text[point] = ord(".")
    for i in range(point + decimals, point, -1):
        text[i] = ord("0") + number % 10
        number //= 10
    for i in range(point - 1, point - 1 - whole, -1):
        text[i] = ord("0") + number % 10
        number //= 10
    if negative:
        text[point - 1 - whole] = ord("-")
    return point + 1 + right


@njit
def _put_exponent(text: Text, at: int, exponent: int) -> int:
    size = abs(exponent)
    text[at] = ord("e")
    text[at + 1] = ord("-") if exponent < 0 else ord("+")
    text[at + 2] = ord("0") + size // 10
    text[at + 3] = ord("0") + size % 10
    return at + 4
