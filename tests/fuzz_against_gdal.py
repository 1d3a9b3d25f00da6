"""A long fuzz of what GeoTIFF tags mean, against GDAL (rasterio): equal to it, or refused.

    python tests/fuzz_against_gdal.py geokeys --count 20000 --seed 1    CRS, raster type, transform
    python tests/fuzz_against_gdal.py tags --count 20000 --seed 1       nodata, strips, tiles, sample types, codecs
    python tests/fuzz_against_gdal.py tags --seed 1 --start 123 --count 1   input 123 of that run again

Ends with one line; exit code 1 after a difference, a crash or a hang (see ``fuzzing.py``).
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import rasterio
from rasterio.io import MemoryFile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.archive import tiff as reader
from mtembed.errors import MtembedError
from tests.tools.fuzzing import Target, main
from tests.tools.tiffs import ASCII, DOUBLE, LEFT, LONG, PIXEL, SHORT, TOP, Blob, Field, geokeys, tiff

CODES = (32719, 32633, 4326, 3857, 32767, 0, 4978, 5609, 7405, 4979, 4269, 27700, 3031, 2225, 1024, 65535, 3413)
UNITS = (9001, 9002, 9003, 9036, 9101, 9102, 9105, 32767, 0)
CITATIONS = (
    "WGS 84 / UTM zone 19S", "WGS 84", "unnamed", "NAD27", "IMAGINE GeoTIFF Support|LUnits = feet", "PCS Name = x",
    "ESRI PE String = GEOGCS[]", "Projection = x", "", "\N{DEGREE SIGN}",
)  # fmt: skip
PARAMETERS = (0.0, 1.0, -69.0, 500000.0, 10000000.0, 0.9996, 6378137.0, 298.257223563, math.nan, 0.3048)
NODATA = (
    "0", "-32768", "nan", "NAN", "-nan", "inf", "-inf", "1e400", "-1.797e308", "-3.4028235e+38", "1,5", "1.5abc", "abc",
    "", " ", "  7 ", "0x10", "1e", "--5", "-1.#IND", "1e3", "1_0", "+7", "007", "1.", ".5", "1e-400", "65535", "65536",
    "255", "-1", "16777217", "9999999", "-9999.000000", "3.5e38", "4294967296", "\N{DEGREE SIGN}", "1\0002",
)  # fmt: skip


def geokeys_input(rng: np.random.Generator) -> Blob:
    """A tiny image whose CRS keys, raster type, tie points and matrices are anything."""
    keys = {1024: (0, 1, _one(rng, (1, 1, 1, 2, 2, 0, 3, 4, 32767))), 1025: (0, 1, _one(rng, (1, 1, 2, 0, 3, 32767)))}
    doubles: list[float] = []
    text = ""
    for key, values in {3072: CODES, 2048: CODES, 3076: UNITS, 2054: UNITS, 4096: (5773, 5703, 32767, 0, 5609),
                        3074: (16019, 16119, 32767, 0), 3075: (1, 7, 9, 11, 32767), 2050: (6326, 6267, 32767),
                        2052: UNITS, 2056: (7030, 32767), 4099: UNITS, 3059: (1, 2)}.items():  # fmt: skip
        if rng.random() < (0.8 if key == 3072 else 0.5 if key == 2048 else 0.15):
            keys[key] = (0, 1, _one(rng, values))
    for key in (3077, 3078, 3080, 3081, 3082, 3083, 3092, 2057, 2059, 2055, 2053):
        if rng.random() < 0.15:
            keys[key] = (34736, 1, len(doubles))
            doubles.append(_one(rng, PARAMETERS))
    for key in (1026, 2049, 3073, 4097):
        if rng.random() < 0.3:
            words = _one(rng, CITATIONS) + "|"
            keys[key] = (34737, len(words), len(text))
            text += words
    if rng.random() < 0.3:
        del keys[_one(rng, list(keys))]
    entries = [(key, *value) for key, value in sorted(keys.items())]
    for _ in range(rng.integers(0, 2) * rng.integers(0, 3)):
        _spoil(rng, entries)
    tags = geokeys(entries, doubles, text)
    if rng.random() < 0.1:
        head = tags[34735][1]
        assert isinstance(head, list)
        head[int(rng.integers(0, 4))] = int(rng.integers(0, 40))
    return tiff(np.arange(6, dtype=np.uint16).reshape(2, 3), {**tags, **_place(rng)}, order=_one(rng, "<<>"))


def _spoil(rng: np.random.Generator, entries: list[tuple[int, int, int, int]]) -> None:
    """Another order, an entry twice, another location or count."""
    at = int(rng.integers(0, len(entries)))
    match rng.integers(0, 5):
        case 0:
            entries.append(entries[at])
        case 1:
            entries.insert(0, entries.pop(at))
        case 2:
            entries[at] = (entries[at][0], _one(rng, (0, 34735, 34736, 34737, 5)), 1, int(rng.integers(0, 9)))
        case 3:
            entries[at] = (*entries[at][:2], int(rng.integers(0, 4)), entries[at][3])
        case _:
            entries[at] = (int(rng.integers(1024, 5000)), 0, 1, int(rng.integers(0, 65536)))


def _place(rng: np.random.Generator) -> dict[int, Field | None]:
    """Scale, tie points and matrix in the combinations that readers disagree about."""
    tags: dict[int, Field | None] = {}
    if rng.random() < 0.3:
        tags[33550] = (DOUBLE, [_one(rng, (PIXEL, 0.0, -PIXEL, 1e-9)) for _ in range(rng.integers(1, 4))])
    if rng.random() < 0.2:
        tie = [_one(rng, (0.0, 0.5, 1.0, 3.0)), _one(rng, (0.0, 0.5, -1.0)), 0.0, LEFT, TOP, 0.0]
        tags[33922] = (DOUBLE, (tie * 2)[: _one(rng, (6, 6, 12, 5, 3))])
    if rng.random() < 0.1:
        tags[_one(rng, (33550, 33922))] = None
    if rng.random() < 0.3:
        matrix = [PIXEL, 0.0, 0.0, LEFT, 0.0, -PIXEL, 0.0, TOP, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        matrix[int(rng.integers(0, 8))] *= _one(rng, (1.0, -1.0, 2.0))
        tags[34264] = (DOUBLE, matrix[: _one(rng, (16, 16, 16, 15, 17))])
    return tags


def tags_input(rng: np.random.Generator) -> Blob:
    """A small image: nodata text, sample type, strips, byte counts and codecs that readers disagree about."""
    dtype = np.dtype(_one(rng, ("u2", "f4", "f4", "u1", "i2", "u4", "f8", "i1")))
    rows, cols = int(rng.integers(1, 70)), int(rng.integers(1, 90))
    pixels = (rng.random((rows, cols)) * 100).astype(dtype)
    height = _one(rng, (rows, rows, 1, 2, 7, rows + 3))
    changes: dict[int, Field | None] = {}
    if rng.random() < 0.5:
        changes[42113] = (ASCII, _one(rng, NODATA).encode("latin-1") + _one(rng, (b"\0", b"\0", b"", b"\0junk")))
    order, strips = _one(rng, "<<>"), None
    if rng.random() < 0.6:
        raw = pixels.astype(dtype.newbyteorder(order))
        blocks = [raw[row : row + height].tobytes() for row in range(0, rows, height)]
        code, strips = _packed(rng, blocks)
        changes[259] = (SHORT, [code])
    sizes = (
        [len(strip) for strip in strips]
        if strips
        else [pixels[row : row + height].nbytes for row in range(0, rows, height)]
    )
    for _ in range(rng.integers(0, 3)):
        _change(rng, changes, sizes)
    return tiff(pixels, changes, order=order, rows_per_strip=height, strips=strips)


def _packed(rng: np.random.Generator, blocks: list[bytes]) -> tuple[int, list[bytes]]:
    match rng.integers(0, 4):
        case 0:
            return 5, [imagecodecs.lzw_encode(block) for block in blocks]
        case 1:
            return 8, [imagecodecs.zlib_encode(block) for block in blocks]
        case 2:
            return 32773, [imagecodecs.packbits_encode(block) for block in blocks]
        case _:
            return 5, [old_lzw(block) for block in blocks]


def _change(rng: np.random.Generator, changes: dict[int, Field | None], sizes: list[int]) -> None:
    """One thing that some writer does, or that damage does."""
    at = int(rng.integers(0, len(sizes)))
    counts: list[int] = list(changes[279][1]) if changes.get(279) else list(sizes)  # type: ignore[index, arg-type]
    at = min(at, len(counts) - 1)
    match rng.integers(0, 13):
        case 0:
            counts[at] = 0
            changes[279] = (LONG, counts)
        case 1:
            lost = 9 if changes.get(259) == (SHORT, [8]) else 3  # without its checksum libtiff takes a strip as whole
            counts[at] = _one(rng, (1, counts[at] + 1, counts[at] + 9, max(0, counts[at] - lost), 1 << 20))
            changes[279] = (LONG, counts)
        case 2:
            changes[279] = (LONG, counts[: max(1, len(counts) - 1)])
        case 3:
            changes[279] = None
        case 4:
            changes[278] = _one(rng, (None, (LONG, [2**32 - 1]), (LONG, [1]), (SHORT, [3])))
        case 5:
            changes[266] = (SHORT, [_one(rng, (1, 2, 0))])
        case 6:
            changes[277] = (SHORT, [_one(rng, (1, 2, 3, 0))])
        case 7:
            changes[284] = (SHORT, [_one(rng, (1, 2, 0))])
        case 8:
            changes[258] = (SHORT, [_one(rng, (1, 4, 7, 8, 12, 16, 24, 32, 64))])
        case 9:
            changes[339] = (SHORT, [_one(rng, (1, 2, 3, 4, 5, 6, 0))])
        case 10:
            changes[317] = (SHORT, [_one(rng, (1, 2, 3, 0))])
        case 11:
            changes |= {322: (LONG, [16 * int(rng.integers(1, 4))]), 323: (LONG, [16 * int(rng.integers(1, 4))])}
            if rng.random() < 0.7:
                changes |= {324: (LONG, [0] * len(sizes)), 325: (LONG, sizes), 273: None, 279: None}
        case _:
            changes[_one(rng, (262, 274, 338, 320, 330, 255, 254))] = (SHORT, [int(rng.integers(0, 9))])


def old_lzw(data: bytes) -> bytes:
    """LZW as written before TIFF 6.0: codes from the least significant bit on, and wider one code later."""
    table = {bytes([value]): value for value in range(256)}
    bits, have, width, free, packed = 256, 9, 9, 258, bytearray()
    current = b""

    def put(code: int) -> None:
        nonlocal bits, have
        bits |= code << have
        have += width
        while have >= 8:
            packed.append(bits & 255)
            bits, have = bits >> 8, have - 8

    for value in data:
        if current + bytes([value]) in table:
            current += bytes([value])
            continue
        put(table[current])
        table[current + bytes([value])] = free
        free += 1
        if free > (1 << width):
            width += 1
        if free == 4000:
            put(256)
            table, width, free = {bytes([byte]): byte for byte in range(256)}, 9, 258
        current = bytes([value])
    put(table[current])
    put(257)
    packed.append(bits & 255)
    return bytes(packed)


def attempt(blob: Blob) -> str:
    """``decoded`` when everything is as GDAL has it, ``refused`` by an MtembedError, ``differs`` otherwise.

    ``unsure`` where GDAL itself gives other pixels every time.
    """
    try:
        info = reader.parse(blob)
        pixels, again = (np.full((info.rows, info.cols), fill, info.dtype) for fill in (0, 99))
        reader.decode_into(blob, info, pixels)
        reader.decode_into(blob, info, again)
    except MtembedError:
        return "refused"
    try:
        with warnings.catch_warnings(), rasterio.Env(), MemoryFile(blob.tobytes()) as memory:
            warnings.simplefilter("ignore")
            with memory.open(driver="GTiff") as dataset:
                transform, tag, code = dataset.transform, dataset.nodata, _code(dataset.crs)
                theirs = dataset.read(1)
                others = [_again(blob) for _ in range(2)]
    except Exception as error:
        return f"differs: GDAL {error}"
    if any(other.tobytes() != theirs.tobytes() for other in others):
        return "unsure"  # of a damaged strip GDAL gives what lies in memory
    if pixels.tobytes() != again.tobytes():
        return "differs: pixels depend on what was there before"
    mine = (info.pixel_width, 0.0, info.left, 0.0, -info.pixel_height, info.top)
    found = []
    if mine != tuple(transform)[:6]:
        found.append(f"transform {mine} {tuple(transform)[:6]}")
    if info.epsg != code and info.epsg is not None:
        found.append(f"crs {info.epsg} {code}")
    if not (
        info.nodata == tag
        or (info.nodata is not None and tag is not None and math.isnan(info.nodata) and math.isnan(tag))
    ):
        found.append(f"nodata {info.nodata} {tag}")
    if theirs.dtype != pixels.dtype or not np.array_equal(theirs, pixels, equal_nan=pixels.dtype.kind == "f"):
        found.append(f"pixels {info.encoding} {theirs.dtype} {pixels.dtype}")
    return f"differs: {', '.join(found)}" if found else "decoded"


def _again(blob: Blob) -> np.ndarray[Any, Any]:
    with MemoryFile(blob.tobytes()) as memory, memory.open(driver="GTiff") as dataset:
        pixels: np.ndarray[Any, Any] = dataset.read(1)
        return pixels


def _code(crs: Any) -> int | None:
    return crs.to_epsg() if crs else None


def _one(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(0, len(values)))]


KINDS = {"geokeys": geokeys_input, "tags": tags_input}


def one_input(kind: str, seed: int, number: int) -> Blob:
    """Input ``number`` of a run."""
    return KINDS[kind](np.random.default_rng([seed, number]))


def warm_up(kind: str) -> None:
    """GDAL, PROJ and the codecs are loaded."""
    if attempt(tiff(np.ones((2, 2), np.uint16))) != "decoded":
        raise SystemExit("a plain image does not decode")
    for number in range(50):
        attempt(one_input(kind, 0, number))


if __name__ == "__main__":
    chosen = next((word for word in sys.argv[1:] if word in KINDS), None)
    if chosen is None:
        raise SystemExit(f"say which: {' or '.join(KINDS)}")
    sys.argv.remove(chosen)
    make = functools.partial(one_input, chosen)
    ready = functools.partial(warm_up, chosen)
    raise SystemExit(main(Target(__file__, ready, make, attempt, arguments=(chosen,), deadline_s=60.0), __doc__))
