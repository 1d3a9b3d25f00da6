"""The tags of a GeoTIFF's first directory, read with no trust in what they say.

Tags are those of TIFF 6.0, BigTIFF and OGC GeoTIFF 1.1; where these leave a choice, GDAL's reading is followed.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.errors import DecodeError

Bytes = npt.NDArray[np.uint8]

_FIELDS = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 12: "f8", 16: "u8"}  # TIFF field type -> numpy
INTEGERS, _TEXT, _DOUBLES = (1, 3, 4, 16), (2,), (12,)


class Directory:
    """The first image file directory: tag -> (field type, count, position of the value field)."""

    def __init__(self, blob: Bytes) -> None:
        self.blob = blob
        mark = blob[:2].tobytes()
        if mark not in (b"II", b"MM"):
            raise DecodeError("the blob is not a TIFF")
        self.byteorder: Literal["<", ">"] = "<" if mark == b"II" else ">"
        version = self._number("H", 2)
        if version not in (42, 43) or (version == 43 and self._number("H", 4) != 8):
            raise DecodeError(f"the blob is not a TIFF (version {version})")
        self._word, number, entry, start = ("I", "H", "HHI4x", 4) if version == 42 else ("Q", "Q", "HHQ8x", 8)
        begin = self._number(self._word, start)
        count = self._number(number, begin)
        begin += struct.calcsize(number)
        size = struct.calcsize(self.byteorder + entry)
        if count > 0xFFFF or begin + count * size > blob.size:
            raise DecodeError("the TIFF directory lies outside the blob")
        self._entries: dict[int, tuple[int, int, int]] = {}
        fields = struct.iter_unpack(self.byteorder + entry, blob.data[begin : begin + count * size])
        for i, (tag, kind, length) in enumerate(fields, 1):
            self._entries.setdefault(tag, (kind, length, begin + i * size - struct.calcsize(self._word)))

    def _number(self, code: str, position: int) -> int:
        if position + struct.calcsize(code) > self.blob.size:
            raise DecodeError("the TIFF directory lies outside the blob")
        return int(struct.unpack_from(self.byteorder + code, self.blob.data, position)[0])

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def values(self, tag: int, kinds: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """A tag's values as a view of the blob, None where it is missing.  Raises DecodeError."""
        if tag not in self._entries:
            return None
        kind, count, position = self._entries[tag]
        if kind not in kinds:
            raise DecodeError(f"TIFF tag {tag} has the wrong type ({kind})")
        dtype = np.dtype(self.byteorder + _FIELDS[kind])
        if count * dtype.itemsize > struct.calcsize(self._word):
            position = self._number(self._word, position)
        if position + count * dtype.itemsize > self.blob.size:
            raise DecodeError(f"the values of TIFF tag {tag} lie outside the blob")
        return self.blob[position : position + count * dtype.itemsize].view(dtype)

    def integer(self, tag: int, default: int | None = None) -> int:
        """The first value of an integer tag.  Raises DecodeError."""
        values = self.values(tag, INTEGERS)
        if values is not None and values.size:
            return int(values[0])
        if default is None:
            raise DecodeError(f"TIFF tag {tag} is missing")
        return default


def georeference(directory: Directory) -> tuple[int | None, float, float, float, float]:
    """(epsg, left, top, pixel width, pixel height), north up.  Raises DecodeError if rotated, missing or not finite."""
    keys = _geokeys(directory)
    scale, tie, matrix = (directory.values(tag, _DOUBLES) for tag in (33550, 33922, 34264))
    if scale is not None and tie is not None and scale.size >= 2 and tie.size >= 6 and scale[0] and scale[1]:
        width, height = float(scale[0]), abs(float(scale[1]))
        left, top = float(tie[3]) - float(tie[0]) * width, float(tie[4]) + float(tie[1]) * height
    elif matrix is not None and matrix.size >= 16:
        width, height, left, top = float(matrix[0]), -float(matrix[5]), float(matrix[3]), float(matrix[7])
        if matrix[1] or matrix[4]:
            raise DecodeError("the GeoTIFF is rotated against its CRS")
    else:
        raise DecodeError("the TIFF has no georeference")
    if keys.get(1025) == 2:  # RasterPixelIsPoint: the tie point is the centre of the pixel
        left, top = left - width * 0.5, top + height * 0.5
    if not (all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0):
        raise DecodeError("the GeoTIFF's transform is not a north-up grid of finite numbers")
    return _epsg(keys), left, top, width, height


def _geokeys(directory: Directory) -> dict[int, int]:
    """The GeoKeys whose value is a code in the key directory itself."""
    values = directory.values(34735, (3,))
    if values is None or values.size < 4:
        return {}
    keys = values[4 : 4 + 4 * min(int(values[3]), values.size // 4 - 1)].reshape(-1, 4).tolist()
    return {key: value for key, location, _, value in keys if location == 0}


def _epsg(keys: dict[int, int]) -> int | None:
    """ProjectedCRS (3072), or GeodeticCRS (2048) unless the model type (1024) is projected; None if neither is set."""
    model = keys.get(1024)
    code = keys.get(3072, 0) if model in (None, 1) else 0
    if not code and model != 1:
        code = keys.get(2048, 0)
    if code and not 1024 <= code < 32767:  # 32767 is "user-defined"
        raise DecodeError(f"the GeoTIFF's CRS has no EPSG code ({code})")
    return code or None


def nodata(directory: Directory, dtype: np.dtype[Any]) -> float | None:
    """GDAL's nodata tag, where it is a number that the samples can hold."""
    text = directory.values(42113, _TEXT)
    if text is None:
        return None
    try:
        value = float(text[:64].tobytes().split(b"\0")[0])
    except ValueError:
        return None
    if dtype.kind == "f":
        return value if not math.isfinite(value) or abs(value) <= np.finfo(dtype).max else None
    return value if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None
