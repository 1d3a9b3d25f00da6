"""The tags of a GeoTIFF's first directory, read with no trust in what they say.

Tags are those of TIFF 6.0, BigTIFF and OGC GeoTIFF 1.1; where these leave a choice, GDAL's reading is followed.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.errors import DecodeError
from mtembed.geo.utm import NORTH, is_utm

Bytes = npt.NDArray[np.uint8]

_FIELDS = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 12: "f8", 16: "u8"}  # TIFF field type -> numpy
INTEGERS, _TEXT, _DOUBLES = (1, 3, 4, 16), (2,), (12,)
_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,7}")  # the nodata tag of most files; a float32 holds it exactly
_CITATIONS = 256  # bytes of text that a plain UTM file may have
_CITATION_KEYS = (1026, 2049, 3073)
_UTM_KEYS = {
    (1024, 1),
    (1025, 1),
    (1025, 2),
    (2048, 4326),
    (2054, 9102),
    (3076, 9001),
}  # projected, area or point, WGS 84, ...


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
    scale, tie, matrix = (directory.values(tag, _DOUBLES) for tag in (33550, 33922, 34264))
    if scale is not None and scale.size >= 2 and scale[0] and scale[1]:
        if tie is None or tie.size < 6:
            raise DecodeError("the TIFF has no georeference")
        width, height = float(scale[0]), abs(float(scale[1]))
        left, top = float(tie[3]) - float(tie[0]) * width, float(tie[4]) + float(tie[1]) * height
    elif matrix is not None and matrix.size == 16:
        width, height, left, top = float(matrix[0]), -float(matrix[5]), float(matrix[3]), float(matrix[7])
        if matrix[1] or matrix[4]:
            raise DecodeError("the GeoTIFF is rotated against its CRS")
    else:
        raise DecodeError("the TIFF has no georeference")
    epsg, centred = _crs(directory)
    if centred:  # RasterPixelIsPoint: the tie point is the centre of the pixel
        left, top = left - width * 0.5, top + height * 0.5
    if not (all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0):
        raise DecodeError("the GeoTIFF's transform is not a north-up grid of finite numbers")
    return epsg, left, top, width, height


def _entries(keys: npt.NDArray[Any]) -> list[tuple[int, int, int, int]]:
    """The GeoKeys (key, tag that holds the value or 0, count, value or its place); none where the list is cut off."""
    if keys.size < 4 or keys.size < 4 + 4 * int(keys[3]):
        return []
    return [tuple(entry) for entry in keys[4 : 4 + 4 * int(keys[3])].reshape(-1, 4).tolist()]


def _crs(directory: Directory) -> tuple[int | None, bool]:
    """The EPSG code of the GeoKeys, None without any, and whether a pixel is a point.

    GDAL is asked about all but the keys of a plain UTM zone.  Raises DecodeError where it knows no EPSG code, or none
    that a cell can be in.
    """
    keys, text = directory.values(34735, (3,)), directory.values(34737, _TEXT)
    if keys is None or not keys.size:
        return None, False
    entries = _entries(keys)
    if any(tag not in (0, 34736, 34737) for _, tag, _, _ in entries):  # GDAL then reads what lies in memory
        raise DecodeError("the GeoTIFF's GeoKeys have values in a place that is none of theirs")
    plain = _utm_zone(entries, b"" if text is None else text[:_CITATIONS].tobytes())
    if plain:
        return plain
    from mtembed.archive import gdal

    doubles = directory.values(34736, _DOUBLES)
    nothing = np.empty(0, np.uint8)
    return gdal.crs_of(keys, nothing if doubles is None else doubles, nothing if text is None else text)


def _utm_zone(entries: list[tuple[int, int, int, int]], text: bytes) -> tuple[int, bool] | None:
    """A zone of WGS 84 / UTM and whether a pixel is a point, where the keys are those that GDAL writes, no others."""
    found = {key: (tag, value) for key, tag, _, value in entries}
    code = found.get(3072, (0, 0))[1]
    if not is_utm(code) or found.get(1024) != (0, 1) or [entry[0] for entry in entries] != sorted(found):
        return None
    name = f"WGS 84 / UTM zone {code % 100}{'N' if code in NORTH else 'S'}"
    for key, tag, count, value in entries:  # GDAL takes units and names in other keys for corrections of the code
        if key in _CITATION_KEYS:
            usual = tag == 34737 and text[value : value + count].strip(b"|\0").decode("latin-1") in (name, "WGS 84")
        else:
            usual = tag == 0 and (key == 3072 or (key, value) in _UTM_KEYS)
        if not usual:
            return None
    return code, found.get(1025) == (0, 2)


def nodata(directory: Directory, dtype: np.dtype[Any], bits: int) -> float | None:
    """The nodata tag as GDAL reads it, where samples of ``bits``, that go into ``dtype``, can hold that number."""
    text = directory.values(42113, _TEXT)
    if text is None or not text.size:
        return None
    written = text.tobytes().split(b"\0")[0]
    if _WHOLE_NUMBER.fullmatch(written):
        value = float(written)
        return value if dtype.kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None
    from mtembed.archive import gdal

    return gdal.nodata_of(text[: gdal.KEYS_LIMIT].tobytes(), dtype, bits, directory.integer(339, 1))
