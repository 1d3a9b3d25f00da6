"""GeoTIFF blob -> numpy plane, inside a decode worker: no open file, no driver, no copy that is not needed.

``parse`` reads the first directory and believes nothing in it: every position is checked against the blob, nothing is
allocated by a claimed size.  ``decode_into`` then writes the first band's pixels straight into the caller's array and
says which way it took:

    copy         uncompressed strips or tiles: one memcpy per run of neighbouring strips
    lzw          LZW without predictor or with predictor 2: ``mtembed.archive.lzw``
    imagecodecs  libdeflate strip by strip (predictor 2, sparse), or all in libtiff (deflate, zstd, predictor 3, others)
    rasterio     what none of these can (several bands, odd bit depths): GDAL, kept to this one blob
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.archive import gdal
from mtembed.archive.tiff_tags import INTEGERS, Bytes, Directory, georeference, nodata
from mtembed.errors import DecodeError

Sizes = npt.NDArray[np.int64]

_NONE, _LZW, _DEFLATES = 1, 5, (8, 32946)
_ENCODINGS = {1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32773: "packbits", 32946: "deflate", 34887: "lerc",
              34925: "lzma", 50000: "zstd", 50001: "webp"}  # fmt: skip
_PREDICTABLE = {5, 8, 32946, 34925, 50000}  # the codecs for which libtiff reads tag 317
_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint"}  # SampleFormat; 4 is "undefined"
_USUAL = {
    262: (0, 1),
    266: (1,),
    284: (1, 2),
    339: (1, 2, 3),
}  # photometric: grey; fill order; planes, which one sample has not
_MAX_SIDE = 2**31 - 1  # GDAL's
_MAX_SAMPLES = 16
_MAX_BLOCK_SHARE, _SPARE_BLOCK_PX = 4, 2**20  # a tile may be larger than a small image, but not without limit


@dataclass(frozen=True, slots=True, eq=False)
class TiffInfo:
    """What the first directory of a GeoTIFF says.

    ``left``/``top`` is the outer corner of the upper-left pixel in CRS units, pixels go east and south.  ``offsets``
    and ``counts`` are int64 [blocks], row-major, inside the blob; count 0 is a block that was never written and reads
    as ``nodata``, or 0.  ``plain``: one sample per pixel, of whole bytes in the usual bit order, in blocks whose
    sizes, or what stands for them, are told; GDAL decodes the others.
    """

    rows: int
    cols: int
    dtype: str
    compression: int
    predictor: int
    tiled: bool
    byteorder: Literal["<", ">"]
    block_rows: int
    block_cols: int
    offsets: Sizes
    counts: Sizes
    epsg: int | None
    left: float
    top: float
    pixel_width: float
    pixel_height: float
    nodata: float | None
    plain: bool = True

    @property
    def encoding(self) -> str:
        """Compression, predictor and tile size in short: ``none``, ``lzw+2``, ``deflate+3/256x256``."""
        name = _ENCODINGS.get(self.compression, f"compression-{self.compression}")
        predictor = f"+{self.predictor}" if self.predictor != 1 else ""
        return name + predictor + (f"/{self.block_rows}x{self.block_cols}" if self.tiled else "")


def parse(blob: npt.NDArray[np.uint8]) -> TiffInfo:
    """Read the first directory of ``blob``, uint8 [bytes], contiguous.  Raises DecodeError naming the cause.

    Uses memory by what the blob holds, never by what it claims.
    """
    directory = Directory(blob)
    rows, cols = directory.integer(257), directory.integer(256)
    if not (0 < rows <= _MAX_SIDE and 0 < cols <= _MAX_SIDE):
        raise DecodeError(f"the TIFF claims to be {rows} x {cols} px")
    bits, samples = directory.integer(258, 1), directory.integer(277, 1)
    if not 0 < samples <= _MAX_SAMPLES:
        raise DecodeError(f"the TIFF claims {samples} bands")
    dtype = _dtype(bits, directory.integer(339, 1))
    compression = directory.integer(259, _NONE)
    predictor = directory.integer(317, 1) if compression in _PREDICTABLE else 1
    if predictor not in (1, 2, 3):
        raise DecodeError(f"the TIFF has an unknown predictor ({predictor})")
    tiled, block_rows, block_cols = _block_shape(directory, rows, cols)
    number = -(-rows // block_rows) * -(-cols // block_cols)
    offsets, counts = _blocks(directory, number, tiled)
    epsg, left, top, width, height = georeference(directory)
    tag = nodata(directory, dtype, bits)
    usual = samples == 1 and bits == 8 * dtype.itemsize and 338 not in directory
    usual &= all(directory.integer(key, 1) in values for key, values in _USUAL.items())
    holes_known = (tag is not None or 42113 not in directory) and (number > 1 or tiled or not offsets[0])
    return TiffInfo(
        rows=rows,
        cols=cols,
        dtype=dtype.name,
        compression=compression,
        predictor=predictor,
        tiled=tiled,
        byteorder=directory.byteorder,
        block_rows=block_rows,
        block_cols=block_cols,
        offsets=offsets,
        counts=counts,
        epsg=epsg,
        left=left,
        top=top,
        pixel_width=width,
        pixel_height=height,
        nodata=tag,
        plain=usual and (holes_known or bool(counts.all())),
    )


def _dtype(bits: int, sample_format: int) -> np.dtype[Any]:
    """The numpy type that holds such samples; GDAL widens odd widths to the next whole one and half floats to 32."""
    kind = _KINDS.get(sample_format)
    width = next((width for width in (8, 16, 32, 64) if 0 < bits <= width), None)
    if kind is None or width is None or (kind == "float" and width < 16):
        raise DecodeError(f"TIFF samples of {bits} bits in format {sample_format} are not supported")
    return np.dtype(f"{kind}{max(width, 32) if kind == 'float' else width}")


def _block_shape(directory: Directory, rows: int, cols: int) -> tuple[bool, int, int]:
    """Whether these are tiles, and their or the strips' rows and columns."""
    tiled = 322 in directory
    if tiled:
        block_rows, block_cols = directory.integer(323), directory.integer(322)
    else:
        block_rows, block_cols = min(rows, directory.integer(278, rows)), cols
    limit = _MAX_BLOCK_SHARE * rows * cols + _SPARE_BLOCK_PX
    if not 0 < block_rows * block_cols <= limit:
        raise DecodeError(f"the TIFF claims blocks of {block_rows} x {block_cols} px")
    return tiled, block_rows, block_cols


def _blocks(directory: Directory, number: int, tiled: bool) -> tuple[Sizes, Sizes]:
    """Offsets and byte counts of the first band's ``number`` strips or tiles, all inside the blob.

    The size of an only strip may be missing or 0: libtiff then takes what is left, and here the count stays 0.
    """
    tags, others = ((324, 325), (273, 279)) if tiled else ((273, 279), (324, 325))
    if any(tag in directory for tag in others):
        raise DecodeError(
            f"the TIFF has {'strip' if tiled else 'tile'} tags, but lies in {'tile' if tiled else 'strip'}s"
        )
    offsets = _listed(directory, tags[0], number)
    only = number == 1 and not tiled
    counts = np.zeros(1, np.uint64) if only and tags[1] not in directory else _listed(directory, tags[1], number)
    if not only:
        offsets[counts == 0] = 0
    size = np.uint64(directory.blob.size)
    outside = (offsets > size) | (counts > size - offsets)
    if outside.any():
        raise DecodeError(f"block {int(outside.argmax())} of {number} lies outside the blob")
    return offsets.astype(np.int64), counts.astype(np.int64)


def _listed(directory: Directory, tag: int, number: int) -> npt.NDArray[np.uint64]:
    values = directory.values(tag, INTEGERS)
    if values is None or values.size < number:
        raise DecodeError(f"the TIFF lists {0 if values is None else values.size} of its {number} blocks")
    return values[:number].astype(np.uint64)


def decode_into(blob: npt.NDArray[np.uint8], info: TiffInfo, out: npt.NDArray[Any]) -> str:
    """Write the first band into ``out``, C-contiguous [rows, cols] of ``info.dtype``, native byte order.

    ``info`` is ``parse(blob)``.  Returns the route taken (see the module).  Raises DecodeError, after which ``out``
    holds anything.
    """
    if out.shape != (info.rows, info.cols) or out.dtype != np.dtype(info.dtype):
        raise DecodeError(f"{info.rows} x {info.cols} {info.dtype} do not go into {out.dtype} {list(out.shape)}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise DecodeError("pixels are only written into a contiguous, writable array")
    if int((info.offsets + info.counts).max()) > blob.size:
        raise DecodeError("the blob is shorter than its directory says")
    reason: Exception | None = None
    for route, decode in _routes(info):
        try:
            decode(blob, info, out)
            return route
        except Exception as error:  # codecs raise what they like; the next one gets its try
            reason = reason or error
    lines = str(reason).splitlines() or [type(reason).__name__]
    raise DecodeError(f"the pixels cannot be decoded ({info.encoding}): {lines[0]}") from reason


_Decode = Callable[[Bytes, TiffInfo, npt.NDArray[Any]], None]


def _routes(info: TiffInfo) -> Iterator[tuple[str, _Decode]]:
    """libtiff has the fastest deflate loop, but differences and holes are dealt with faster, or only, here."""
    sparse = not info.counts.all()
    name = {_NONE: "copy", _LZW: "lzw"}.get(info.compression, "imagecodecs")
    own = info.plain and info.predictor != 3 and info.compression in _UNPACK
    if own and (name != "imagecodecs" or info.predictor == 2 or sparse):
        yield name, _decode_blocks
    elif info.plain and not sparse:
        yield "imagecodecs", _decode_in_libtiff
    yield "rasterio", _decode_in_gdal


def _decode_blocks(blob: Bytes, info: TiffInfo, out: npt.NDArray[Any]) -> None:
    """Strips go to where they belong at once, tiles through one tile of scratch."""
    unpack = _UNPACK[info.compression]
    if info.tiled:
        tile = np.empty((info.block_rows, info.block_cols), out.dtype)
        size = np.array([tile.nbytes])
        for i, window in enumerate(_windows(info)):
            if info.counts[i]:
                unpack(blob, info.offsets[i : i + 1], info.counts[i : i + 1], size, tile.reshape(-1).view(np.uint8))
                _restore(info, tile)
                target = out[window]
                target[...] = tile[: target.shape[0], : target.shape[1]]
    else:
        sizes = np.full(info.offsets.size, info.block_rows * out.strides[0])
        sizes[-1] = out.nbytes - int(sizes[:-1].sum())
        unpack(blob, info.offsets, info.counts, sizes, out.reshape(-1).view(np.uint8))
        _restore(info, out)
    _fill_holes(info, out)


def _windows(info: TiffInfo) -> Iterator[tuple[slice, slice]]:
    for row in range(0, info.rows, info.block_rows):
        for col in range(0, info.cols, info.block_cols):
            yield slice(row, row + info.block_rows), slice(col, col + info.block_cols)


def _restore(info: TiffInfo, pixels: npt.NDArray[Any]) -> None:
    """Native byte order, then predictor 2, in place (differences were taken of numbers, not of bytes)."""
    if not np.dtype(info.dtype).newbyteorder(info.byteorder).isnative:
        pixels.byteswap(inplace=True)
    if info.predictor == 2:
        from mtembed.archive.lzw import undo_differences

        undo_differences(pixels.view(f"u{pixels.itemsize}"))


def _fill_holes(info: TiffInfo, out: npt.NDArray[Any]) -> None:
    """Blocks that were never written hold nodata, rounded as GDAL does, or 0."""
    if info.counts.all():
        return
    value = info.nodata or 0.0
    for window, count in zip(_windows(info), info.counts, strict=True):
        if not count:
            out[window] = value if out.dtype.kind == "f" else math.floor(value + 0.5)


def _unpack_raw(blob: Bytes, offsets: Sizes, counts: Sizes, sizes: Sizes, out: Bytes) -> None:
    """Copy blocks to where they belong in ``out``, neighbours in the blob together; holes are left out."""
    written = counts > 0
    if (counts[written] < sizes[written]).any():
        raise DecodeError("a block is shorter than its pixels")
    joined = written[1:] & written[:-1] & (offsets[1:] == offsets[:-1] + sizes[:-1])
    edges = [0, *(np.flatnonzero(~joined) + 1).tolist(), offsets.size]
    places = np.concatenate(([0], sizes.cumsum())).tolist()
    for first, stop in pairwise(edges):
        if written[first]:
            begin, end = places[first], places[stop]
            out[begin:end] = blob[offsets[first] : offsets[first] + end - begin]


def _unpack_lzw(blob: Bytes, offsets: Sizes, counts: Sizes, sizes: Sizes, out: Bytes) -> None:
    from mtembed.archive.lzw import decode_strips

    first, second = (blob[np.minimum(offsets + i, blob.size - 1)] for i in (0, 1))
    if ((counts >= 2) & (first == 0) & (second & 1 == 1)).any():
        raise DecodeError("the LZW codes are of the old style, from before TIFF 6.0")  # libtiff's own test
    broken = decode_strips(blob, offsets, counts, sizes, out)
    if broken >= 0:
        raise DecodeError(f"the LZW code of block {broken} is broken or too short")


def _unpack_deflate(blob: Bytes, offsets: Sizes, counts: Sizes, sizes: Sizes, out: Bytes) -> None:
    """Inflate into ``out`` itself, so that a block that holds more than its pixels is refused, not allocated."""
    import imagecodecs

    inflate: Any = imagecodecs.deflate_decode
    end = 0
    for offset, count, size in zip(offsets.tolist(), counts.tolist(), sizes.tolist(), strict=True):
        begin, end = end, end + size
        if count and len(inflate(blob[offset : offset + count], out=out[begin:end])) != size:
            raise DecodeError("a block inflates to less than its pixels")


_UNPACK = {_NONE: _unpack_raw, _LZW: _unpack_lzw} | dict.fromkeys(_DEFLATES, _unpack_deflate)


def _decode_in_libtiff(blob: Bytes, info: TiffInfo, out: npt.NDArray[Any]) -> None:
    import imagecodecs

    decode: Any = imagecodecs.tiff_decode
    out.fill(0)  # of a damaged strip it may leave out rows without a word: they must not be another cell's
    decode(blob, out=out)


def _decode_in_gdal(blob: Bytes, info: TiffInfo, out: npt.NDArray[Any]) -> None:
    chopped = info.offsets.size == 1 and not info.tiled and info.compression == _NONE  # by libtiff, into strips of 8 kB
    gdal.decode(blob, out, None if chopped else (info.block_rows, info.block_cols))
