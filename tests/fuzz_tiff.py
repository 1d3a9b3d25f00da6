"""GeoTIFF blobs for tests, and a long fuzz of the decoder with mutated ones.

    python tests/fuzz_tiff.py --count 10000 --seed 1        the run
    python tests/fuzz_tiff.py --seed 1 --start 123 --count 1   input 123 of that run again

Ends with one line; exit code 1 after a crash or a hang (see ``fuzzing.py``).
"""

from __future__ import annotations

import functools
import itertools
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.io import MemoryFile
from rasterio.transform import Affine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.archive import tiff
from mtembed.errors import DecodeError
from tests.tools.fuzzing import Target, main

Blob = npt.NDArray[np.uint8]
CORNER = Affine(10, 0, 709809.8352053738, 0, -10, 5702733.330553154)
SLOT_BYTES = 16 << 20


def encode(pixels: npt.NDArray[Any], *, crs: Any = "EPSG:32718", transform: Affine = CORNER, **options: Any) -> Blob:
    """``pixels`` [rows, cols] or [bands, rows, cols] as GDAL writes them."""
    bands = pixels.reshape(-1, *pixels.shape[-2:])
    profile = dict(zip(("count", "height", "width"), bands.shape, strict=True), dtype=pixels.dtype.name, crs=crs)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=transform, **profile, **options) as dataset:
            dataset.write(bands)
        return np.frombuffer(bytes(memory.getbuffer()), np.uint8)


def entries(blob: Blob) -> dict[int, int]:
    """Tag -> position of its entry in the first directory of a valid blob; key 0 is the pointer to the next one."""
    order = "<" if blob[0] == ord("I") else ">"
    big = struct.unpack_from(order + "H", blob, 2)[0] == 43
    begin = struct.unpack_from(order + ("Q" if big else "I"), blob, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), blob, begin)[0]
    begin, size = begin + (8 if big else 2), 20 if big else 12
    tags = {struct.unpack_from(order + "H", blob, begin + i * size)[0]: begin + i * size for i in range(count)}
    return tags | {0: begin + count * size}


def rewrite(
    blob: Blob, tag: int, *, name: int | None = None, kind: int | None = None, count: int | None = None,
    value: int | None = None,
) -> Blob:  # fmt: skip
    """A copy of ``blob`` with parts of one directory entry replaced (``value`` fills the value or offset field)."""
    blob = blob.copy()
    order = "<" if blob[0] == ord("I") else ">"
    big = struct.unpack_from(order + "H", blob, 2)[0] == 43
    at, word = entries(blob)[tag], "Q" if big else "I"
    fields = (("H", 0, name), ("H", 2, kind), (word, 4, count), (word, 12 if big else 8, value))
    for code, shift, number in fields:
        if number is not None:
            limit = 1 << 8 * struct.calcsize(code)
            struct.pack_into(order + code, blob, at + shift, number % limit)
    return blob


@functools.cache
def seeds() -> tuple[Blob, ...]:
    """Small valid blobs: every encoding, strips and tiles, both byte orders, BigTIFF, sparse, more than one band."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(-9, 10, (67, 45)).cumsum(1) + 1000
    codecs: list[dict[str, Any]] = [{}, {"compress": "packbits"}]
    for name, predictor in itertools.product(("lzw", "deflate", "zstd"), (1, 2, 3)):
        codecs.append({"compress": name, "predictor": predictor})
    layouts: list[dict[str, Any]] = [{"blockysize": 8}, {"tiled": True, "blockxsize": 32, "blockysize": 16}]
    frames: list[dict[str, Any]] = [{}, {"ENDIANNESS": "BIG"}, {"BIGTIFF": "YES"}, {"SPARSE_OK": True, "nodata": 0}]
    blobs = []
    for codec, layout, frame in itertools.product(codecs, layouts, frames):
        pixels = smooth.astype(np.float32 if codec.get("predictor") == 3 or "nodata" in frame else np.uint16)
        if "SPARSE_OK" in frame:
            pixels[16:40] = 0
        blobs.append(encode(pixels, **codec, **layout, **frame))
    blobs.append(encode(np.stack([smooth, smooth]).astype(np.uint16), interleave="pixel"))
    return tuple(blobs)


def mutate(blob: Blob, rng: np.random.Generator) -> Blob:
    """One to three random changes: bytes, cuts, copied pieces, and above all fields of the directory."""
    places = list(entries(blob).values())
    blob = blob.copy()
    for _ in range(rng.integers(1, 4)):
        if blob.size < 16:
            break
        match rng.integers(0, 8):
            case 0:
                at = rng.integers(0, blob.size, rng.integers(1, 9))
                blob[at] = rng.integers(0, 256, at.size)
            case 1:
                blob[rng.integers(0, 16)] = rng.integers(0, 256)
            case 2:
                blob = blob[: rng.integers(0, blob.size)].copy()
            case 3:
                size = int(rng.integers(1, min(64, blob.size)))
                source, target = rng.integers(0, blob.size - size + 1, 2)
                blob[target : target + size] = blob[source : source + size].copy()
            case _:
                _mutate_entry(blob, int(rng.choice(places)), rng)
    return blob


def _mutate_entry(blob: Blob, at: int, rng: np.random.Generator) -> None:
    """Another tag, type, count or value, of the kind that breaks programs."""
    numbers = [0, 1, 2, 3, 7, 8, 16, 255, 32768, 65535, 65536, 100_000, 2**31 - 1, 2**31, 2**32 - 1, blob.size, at]
    numbers += [256, 257, 258, 259, 273, 277, 278, 279, 317, 322, 323, 324, 325, 339, 33550, 33922, 34735, 50000]
    number = int(rng.choice(numbers)) if rng.integers(0, 4) else int(rng.integers(0, 2**32))
    width = int(rng.choice([2, 4, 8]))
    at += int(rng.choice([0, 2, 4, 8, 12]))
    if at + width <= blob.size:
        data = (number % (1 << 8 * width)).to_bytes(width, "little" if blob[0] == ord("I") else "big")
        blob[at : at + width] = np.frombuffer(data, np.uint8)


def attempt(blob: Blob) -> str:
    """Decode as a worker would: ``decoded``, or ``refused`` by a DecodeError or for want of room."""
    try:
        info = tiff.parse(blob)
        if info.rows * info.cols * np.dtype(info.dtype).itemsize > SLOT_BYTES:
            return "refused"
        tiff.decode_into(blob, info, np.empty((info.rows, info.cols), info.dtype))
    except DecodeError:
        return "refused"
    return "decoded"


def one_input(seed: int, number: int) -> Blob:
    rng = np.random.default_rng([seed, number])
    return mutate(seeds()[rng.integers(0, len(seeds()))], rng)


def warm_up() -> None:
    for blob in seeds():
        if attempt(blob) != "decoded":
            raise SystemExit("a seed does not decode")


if __name__ == "__main__":
    raise SystemExit(main(Target(__file__, warm_up, one_input, attempt), __doc__))
