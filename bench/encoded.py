"""Compressed TIFFs made from pixels, strip by strip as GDAL does, with what Python has and (for LZW) rasterio."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

STRIP_BYTES = 8192  # GDAL's aim
_SHORT, _LONG = 3, 4


def deflated(pixels: np.ndarray[Any, Any], predictor: int) -> np.ndarray[Any, Any]:
    """A deflate TIFF of uint16 [rows, cols]: uint8 [bytes], little-endian, without a place on Earth."""
    rows, cols = pixels.shape
    step = max(1, STRIP_BYTES // (2 * cols))
    if predictor == 2:
        pixels = np.diff(pixels, axis=1, prepend=np.zeros((rows, 1), pixels.dtype))
    strips = [zlib.compress(pixels[row : row + step].tobytes(), 6) for row in range(0, rows, step)]
    fields = [
        (256, cols),
        (257, rows),
        (258, 16),
        (259, 8),
        (262, 1),
        (277, 1),
        (278, step),
        (317, predictor),
        (339, 1),
    ]
    head = 8 + 2 + 12 * (len(fields) + 2) + 4
    tables = [head + 8 * len(strips) + sum(map(len, strips[:i])) for i in range(len(strips))], [len(s) for s in strips]
    entries = [(tag, struct.pack("<HHIHH", tag, _SHORT, 1, value, 0)) for tag, value in fields]
    for tag, at in ((273, head), (279, head + 4 * len(strips))):
        entries.append((tag, struct.pack("<HHII", tag, _LONG, len(strips), at)))
    directory = struct.pack("<H", len(entries)) + b"".join(entry for _, entry in sorted(entries)) + bytes(4)
    lists = b"".join(struct.pack(f"<{len(table)}I", *table) for table in tables)
    return np.frombuffer(b"II*\0" + struct.pack("<I", 8) + directory + lists + b"".join(strips), np.uint8)


def by_gdal(pixels: np.ndarray[Any, Any], compress: str, predictor: int) -> np.ndarray[Any, Any]:
    """A TIFF of GDAL's: uint8 [bytes].  Raises ImportError without rasterio."""
    import warnings

    from rasterio.io import MemoryFile

    rows, cols = pixels.shape
    size = {"height": rows, "width": cols, "count": 1, "dtype": pixels.dtype.name}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore")
        with memory.open(driver="GTiff", compress=compress, predictor=predictor, **size) as dataset:
            dataset.write(pixels, 1)
        return np.frombuffer(memory.read(), np.uint8)


def encode(pixels: np.ndarray[Any, Any], encoding: str) -> np.ndarray[Any, Any]:
    """``deflate``, ``deflate+2``, ``lzw`` or ``lzw+2``."""
    compress, _, predictor = encoding.partition("+")
    if compress == "deflate":
        return deflated(pixels, int(predictor or 1))
    return by_gdal(pixels, compress, int(predictor or 1))
