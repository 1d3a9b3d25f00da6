"""What GDAL makes of a blob, or of a few of its tags: the last word where GeoTIFF leaves a choice.

Questions about tags are put with a file of one pixel that has these tags, and answers are kept: an archive asks the
same question for every cell.  rasterio and pyproj are imported only by what asks.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.errors import DecodeError

KEYS_LIMIT = 1 << 16  # bytes of GeoKeys that are looked at
SAME_PLACE_DEG = 1e-9
_ANSWERS = 512
_LOCK = threading.Lock()
_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_SAMPLES = {"u": 1, "i": 2, "f": 3}  # SampleFormat


def decode(blob: npt.NDArray[np.uint8], out: npt.NDArray[Any], blocks: tuple[int, int] | None) -> None:
    """The first band's pixels into ``out`` [rows, cols].

    ``blocks`` are the rows and columns of a strip or tile that GDAL should see too, None where they do not matter.
    Raises DecodeError where it sees another image, and rasterio's errors.
    """
    with _opened(blob.tobytes()) as dataset:
        if (dataset.height, dataset.width, dataset.dtypes[0]) != (*out.shape, out.dtype.name):
            raise DecodeError(f"GDAL sees {dataset.height} x {dataset.width} {dataset.dtypes[0]}")
        if blocks is not None and dataset.block_shapes[0] != blocks:
            raise DecodeError(f"GDAL sees blocks of {dataset.block_shapes[0]} px")
        dataset.read(1, out=out)


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """GDAL's GTiff driver on bytes, with no file beside them to look at."""
    import rasterio

    with _LOCK, warnings.catch_warnings(), _proj_data(Path(rasterio.__file__).parent / "proj_data"):
        warnings.simplefilter("ignore")
        alone = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED=False)
        memory = rasterio.MemoryFile(content, dirname="mtembed", filename="blob.tif")  # a name fit for messages
        with alone, memory, memory.open(driver="GTiff") as dataset:
            yield dataset


@contextmanager
def _proj_data(folder: Path) -> Iterator[None]:
    """Units in GeoKeys are looked up by a part of GDAL that misses rasterio's own PROJ data, and says so on stderr."""
    if "PROJ_DATA" in os.environ or not folder.is_dir():
        yield
        return
    os.environ["PROJ_DATA"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PROJ_DATA"]


def crs_of(keys: npt.NDArray[Any], doubles: npt.NDArray[Any], text: npt.NDArray[Any]) -> tuple[int | None, bool]:
    """What GDAL finds in GeoKeys (tags 34735 to 34737): the EPSG code, None where they name no CRS, and whether tie
    points are centres of pixels.

    Raises DecodeError for a CRS without a code, and for one that is neither projected nor longitude and latitude.
    """
    if keys.nbytes + doubles.nbytes + text.nbytes > KEYS_LIMIT:
        raise DecodeError("the GeoTIFF's GeoKeys are too large")
    code, centred, problem = _asked_crs(keys.astype("<u2").tobytes(), doubles.astype("<f8").tobytes(), text.tobytes())
    if problem:
        raise DecodeError(problem)
    return code, centred


@functools.lru_cache(maxsize=_ANSWERS)
def _asked_crs(keys: bytes, doubles: bytes, text: bytes) -> tuple[int | None, bool, str]:
    """(code, pixel is point, why there is no code)."""
    question = {34735: (_SHORT, keys), 34736: (_DOUBLE, doubles), 34737: (_ASCII, text)}
    try:
        with _opened(_one_pixel(np.dtype(np.uint8), question)) as dataset:
            crs = dataset.crs
            code = crs.to_epsg() if crs else None
            words = crs.to_wkt() if crs else ""
            centred = dataset.transform.c != 0.0
    except Exception as error:  # whatever the tags made GDAL say
        return None, False, f"the GeoTIFF's CRS cannot be read: {str(error).partition(chr(10))[0]}"
    if words.startswith("LOCAL_CS") or not words:
        return None, centred, ""  # keys, but none that says where
    if code is None:
        return None, centred, f"the GeoTIFF's CRS has no EPSG code (GDAL reads {words.partition(',')[0]}])"
    return code, centred, _problem(code, words)


def _problem(code: int, wkt: str) -> str:
    """Why the code does not stand for the CRS that GDAL read."""
    import pyproj

    from mtembed.geo.footprint import transformer

    try:
        area = pyproj.CRS.from_epsg(code).area_of_use
        to_degrees = transformer(code)
        theirs = pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(wkt), "EPSG:4326", always_xy=True)
        west, south, east, north = area.bounds if area else (-1.0, -1.0, 1.0, 1.0)
        lon, lat = np.array([west, (west + east) / 2, east]), np.array([south, (south + north) / 2, north])
        x, y = to_degrees.transform(lon, lat, direction="INVERSE")
        apart = np.array(theirs.transform(x, y)) - np.array(to_degrees.transform(x, y))
    except Exception as error:
        return f"EPSG:{code} is no CRS for cells: {str(error).partition(chr(10))[0]}"
    return "" if (abs(apart) <= SAME_PLACE_DEG).all() else f"the GeoTIFF's CRS has no EPSG code ({code} is near it)"


def nodata_of(text: bytes, dtype: np.dtype[Any], bits: int, sample_format: int) -> float | None:
    """The number that GDAL reads in the nodata tag, where samples can hold it; these go into ``dtype``."""
    return _asked_nodata(text[:KEYS_LIMIT], dtype.str, bits, sample_format)


@functools.lru_cache(maxsize=_ANSWERS)
def _asked_nodata(text: bytes, dtype: str, bits: int, sample_format: int) -> float | None:
    kinds = {258: bits, 339: sample_format}
    tags = {42113: (_ASCII, text)} | {tag: (_SHORT, struct.pack("<H", number)) for tag, number in kinds.items()}
    try:
        with _opened(_one_pixel(np.dtype(dtype), tags)) as dataset, np.errstate(over="ignore"):
            value = dataset.nodata
    except Exception as error:
        raise DecodeError(f"the nodata tag cannot be read: {str(error).partition(chr(10))[0]}") from error
    return None if value is None else float(value)


def _one_pixel(dtype: np.dtype[Any], tags: Mapping[int, tuple[int, bytes]]) -> bytes:
    """A little-endian TIFF of one pixel with its corner at 0, 0 and these (type, value) tags."""
    numbers = {256: 1, 257: 1, 258: 8 * dtype.itemsize, 259: 1, 262: 1, 277: 1, 278: 1, 339: _SAMPLES[dtype.kind]}
    fields = {tag: (_SHORT, struct.pack("<H", number)) for tag, number in numbers.items()}
    fields |= {33550: (_DOUBLE, struct.pack("<3d", 1, 1, 0)), 33922: (_DOUBLE, bytes(48))}
    fields |= {tag: field for tag, field in tags.items() if field[1]}
    values = 10 + 12 * (len(fields) + 2) + 4
    fields |= {273: (_LONG, struct.pack("<I", values)), 279: (_LONG, struct.pack("<I", dtype.itemsize))}
    entries, body = b"", bytes(8)  # the pixel
    for tag, (kind, value) in sorted(fields.items()):
        size = {_ASCII: 1, _SHORT: 2, _LONG: 4, _DOUBLE: 8}[kind]
        where = value.ljust(4, b"\0")
        if len(value) > 4:
            where = struct.pack("<I", values + len(body))
            body += value + b"\0" * (-len(value) % 8)
        entries += struct.pack("<HHI", tag, kind, len(value) // size) + where
    return struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + entries + bytes(4) + body
