"""TIFF's LZW and horizontal predictor, undone by compiled loops (TIFF 6.0, sections 13 and 14).

Imported only when a blob needs it: an uncompressed archive never pays for numba.  A decoder of our own because
libtiff's takes 1.5 times and imagecodecs' own (2026.3.6, the last for Python 3.11) 2.5 times as long on 8 KB strips.

Every string of the table is an earlier piece of the output plus one byte, so an entry is where that piece starts and
how long it is; the first 8 bytes are kept beside it and leave in one store, which is all most strings need.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed._numba import inlined, njit

Bytes = npt.NDArray[np.uint8]
Sizes = npt.NDArray[np.int64]

_U64 = np.uint64
_0, _1, _3, _8, _56, _63, _64, _255 = (np.uint64(n) for n in (0, 1, 3, 8, 56, 63, 64, 255))
_CLEAR, _END = np.uint64(256), np.uint64(257)
_MIN_WIDTH, _MAX_WIDTH, _TABLE = np.uint64(9), np.uint64(12), np.uint64(4096)


@inlined
def _load(source: Bytes, at: Any) -> Any:
    """8 bytes, big-endian; written out so that LLVM makes one load of it."""
    word = _U64(source[at]) << _56 | _U64(source[at + _1]) << _U64(48)
    word |= _U64(source[at + _U64(2)]) << _U64(40) | _U64(source[at + _3]) << _U64(32)
    word |= _U64(source[at + _U64(4)]) << _U64(24) | _U64(source[at + _U64(5)]) << _U64(16)
    return word | _U64(source[at + _U64(6)]) << _8 | _U64(source[at + _U64(7)])


@inlined
def _store(out: Bytes, at: Any, word: Any) -> None:
    """8 bytes, little-endian; LLVM makes one store of it."""
    out[at] = np.uint8(word)
    out[at + _1] = np.uint8(word >> _8)
    out[at + _U64(2)] = np.uint8(word >> _U64(16))
    out[at + _3] = np.uint8(word >> _U64(24))
    out[at + _U64(4)] = np.uint8(word >> _U64(32))
    out[at + _U64(5)] = np.uint8(word >> _U64(40))
    out[at + _U64(6)] = np.uint8(word >> _U64(48))
    out[at + _U64(7)] = np.uint8(word >> _56)


@njit
def decode_strips(blob: Bytes, offsets: Sizes, counts: Sizes, sizes: Sizes, out: Bytes) -> int:
    """Decode LZW strip after strip into ``out``, uint8 [sum(sizes)]; strips with count 0 are left as they are.

    Strip i is ``blob[offsets[i]:offsets[i] + counts[i]]`` (the caller has checked these bounds) and fills ``sizes[i]``
    bytes; what it holds beyond them is not looked at.  Returns -1, or the number of the first strip that is broken.
    """
    heads = np.empty(4097, np.uint64)
    lengths = np.empty(4097, np.uint16)
    starts = np.empty(4097, np.uint64)
    for byte in range(258):
        heads[byte] = byte
        lengths[byte] = 1
    end = 0
    for i in range(offsets.size):
        begin, end = end, end + sizes[i]
        source = blob[offsets[i] : offsets[i] + counts[i]]
        if counts[i] > 0 and not _decode_strip(source, out[begin:end], heads, lengths, starts):
            return i
    return -1


@njit
def _decode_strip(source: Bytes, out: Bytes, heads: Any, lengths: Any, starts: Any) -> bool:
    """Fill ``out`` from one strip.  Entry ``free`` is written before ``code`` is looked up: it may be the same one."""
    size = _U64(out.size)
    done, read, bits, have = _0, _0, _0, _0
    width, limit, free = _MIN_WIDTH, _U64(511), _END
    head, length = _0, _0  # of the previous string; length 0 just after a clear code
    while done < size:
        if have < _MAX_WIDTH:
            bits, have, read = _refill(source, bits, have, read)
            if have < width:
                return False
        code = bits >> (_64 - width)
        bits <<= width
        have -= width
        first = head
        if code < free:
            first = heads[code]
            if code >> _1 == _CLEAR >> _1:
                if code == _END:
                    return False
                width, limit, free, head, length = _MIN_WIDTH, _U64(511), _END, _0, _0
                continue
        elif code > free or length == _0:
            return False
        heads[free] = head if length >= _8 else head | ((first & _255) << (length << _3))
        lengths[free] = length + _1
        starts[free] = done - length
        free += _1
        if free == limit:
            if width < _MAX_WIDTH:
                width += _1
                limit = (limit << _1) | _1 if width < _MAX_WIDTH else _TABLE + _1
            else:
                free = _TABLE  # full: the last entry, which no code can name, is overwritten from now on
        head, length = heads[code], _U64(lengths[code])
        done = _emit(out, done, head, length, starts, code)
    return True


@inlined
def _refill(source: Bytes, bits: Any, have: Any, read: Any) -> Any:
    """Top up ``bits`` (kept at the upper end of 64) to at least 56 where the source has them."""
    size = _U64(source.size)
    if read + _8 <= size:
        return bits | (_load(source, read) >> have), have | _56, read + ((_63 - have) >> _3)
    while have <= _56 and read < size:
        bits |= _U64(source[read]) << (_56 - have)
        read += _1
        have += _8
    return bits, have, read


@inlined
def _emit(out: Bytes, done: Any, head: Any, length: Any, starts: Any, code: Any) -> Any:
    """Append a string; a short one by a store of 8 bytes, of which the surplus is overwritten by what follows."""
    size = _U64(out.size)
    if length <= _8 and done + _8 <= size:
        _store(out, done, head)
        return done + length
    stop = min(done + length, size)
    for k in range(stop - done):
        at = _U64(k)
        out[done + at] = out[starts[code] + at] if length > _8 else np.uint8((head >> (at << _3)) & _255)
    return stop


@njit
def undo_differences(plane: npt.NDArray[Any]) -> None:
    """Predictor 2: running sums along the rows of ``plane``, unsigned [rows, cols], in place, modulo its width."""
    for row in range(plane.shape[0]):
        total = plane[row, 0]
        for col in range(1, plane.shape[1]):
            total = plane.dtype.type(total + plane[row, col])
            plane[row, col] = total
