"""CPU time to decode the 13 bands of one Sentinel-2 L1C cell (12.7 MB), per encoding, next to rasterio's.

``test_lzw`` is the LZW loop alone next to imagecodecs'.  It decides whether ``archive/lzw.py`` stays: where its ratio
falls below 1.3 on a current imagecodecs, delete that file and decode LZW with imagecodecs, as the other codecs.

Pixels: five by five chips of 224 px from the shared data, every neighbour another place and another orientation (a
mirrored chip would repeat inside deflate's window); without that data fractal terrain with sensor noise.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from bench.conftest import Paired
from mtembed.archive import tiff
from mtembed.archive.lzw import decode_strips

SIDE = 1068
STEPS = (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 6, 2, 2)  # ground sampling of B01 ... B12 in units of 10 m
CHIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "chips" / "terramind" / "S2L1C"
ENCODINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "none-big-endian": {"ENDIANNESS": "BIG"},
    "none-256": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    "lzw": {"compress": "lzw"},
    "lzw+2": {"compress": "lzw", "predictor": 2},
    "deflate": {"compress": "deflate"},
    "deflate+2": {"compress": "deflate", "predictor": 2},
    "deflate-256": {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256},
    "zstd": {"compress": "zstd"},
}


def chips_mosaic(band: int, chips: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    def oriented(row: int, col: int) -> np.ndarray[Any, Any]:
        chip = chips[(row + col) % len(chips)][band][:: STEPS[band], :: STEPS[band]]
        turned = np.rot90(chip, (row * 5 + col) // 3 % 4)
        return turned[:, ::-1] if (row * 5 + col) // 12 % 2 else turned

    side = SIDE // STEPS[band]
    return np.block([[oriented(row, col) for col in range(5)] for row in range(5)])[:side, :side].astype(np.uint16)


def fractal(band: int) -> np.ndarray[Any, Any]:
    """Gaussian noise with an amplitude spectrum of 1/f^1.5, sd 400 DN, and 20 DN of white noise on top."""
    side = SIDE // STEPS[band]
    rng = np.random.default_rng(band)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    terrain = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency**1.5, (side, side))
    return np.clip(1800 + 400 * terrain / terrain.std() + rng.normal(0, 20, terrain.shape), 1, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def planes() -> list[np.ndarray[Any, Any]]:
    files = sorted(CHIPS.glob("*.tif"))
    if not files:
        return [fractal(band) for band in range(len(STEPS))]
    chips = []
    for file in files:
        with rasterio.open(file) as dataset:
            chips.append(dataset.read())
    return [chips_mosaic(band, chips) for band in range(len(STEPS))]


def encode(plane: np.ndarray[Any, Any], options: dict[str, Any]) -> bytes:
    rows, cols = plane.shape
    step = SIDE / rows * 10
    profile = {"count": 1, "height": rows, "width": cols, "dtype": plane.dtype.name, "crs": "EPSG:32633"}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", transform=Affine(step, 0, 709809.8, 0, -step, 5702733.3), **profile, **options
        ) as d:
            d.write(plane, 1)
        return bytes(memory.getbuffer())


def with_mtembed(blobs: list[bytes], out: list[np.ndarray[Any, Any]]) -> None:
    for blob, plane in zip(blobs, out, strict=True):
        view = np.frombuffer(blob, np.uint8)
        tiff.decode_into(view, tiff.parse(view), plane)


def with_rasterio(blobs: list[bytes], out: list[np.ndarray[Any, Any]]) -> None:
    """As the reference reads a cell: open, CRS, bounds, pixels."""
    for i, blob in enumerate(blobs):
        with MemoryFile(blob) as memory, memory.open(driver="GTiff") as dataset:
            _ = dataset.crs, dataset.bounds
            out[i] = dataset.read(1)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.benchmark(group="decode", timer=time.process_time)
def test_decode(paired: Paired, planes: list[np.ndarray[Any, Any]], encoding: str) -> None:
    blobs = [encode(plane, ENCODINGS[encoding]) for plane in planes]
    ours, theirs = ([np.empty_like(plane) for plane in planes] for _ in range(2))
    paired(lambda: with_mtembed(blobs, ours), lambda: with_rasterio(blobs, theirs), "rasterio", 12)
    for out in (ours, theirs):
        assert all(np.array_equal(a, b) for a, b in zip(out, planes, strict=True))


@pytest.mark.benchmark(group="decode", timer=time.process_time)
def test_lzw(paired: Paired, planes: list[np.ndarray[Any, Any]]) -> None:
    """All strips of the 13 bands, into memory that is there."""
    blobs = [np.frombuffer(encode(plane, ENCODINGS["lzw"]), np.uint8) for plane in planes]
    infos = [tiff.parse(blob) for blob in blobs]
    outs = [np.empty(plane.nbytes, np.uint8) for plane in planes]

    def ours() -> None:
        for blob, info, out in zip(blobs, infos, outs, strict=True):
            assert decode_strips(blob, info.offsets, info.counts, strip_bytes(info), out) == -1

    def theirs() -> None:
        for blob, info, out in zip(blobs, infos, outs, strict=True):
            at = 0
            for offset, count, size in zip(info.offsets, info.counts, strip_bytes(info), strict=True):
                imagecodecs.lzw_decode(blob[offset : offset + count], out=out[at : at + size])
                at += size

    paired(ours, theirs, "imagecodecs", 12)
    assert all(np.array_equal(out.view(plane.dtype), plane.ravel()) for out, plane in zip(outs, planes, strict=True))


def strip_bytes(info: tiff.TiffInfo) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Bytes of each strip once it is decoded."""
    first = np.arange(len(info.offsets)) * info.block_rows
    return np.minimum(info.block_rows, info.rows - first) * info.cols * np.dtype(info.dtype).itemsize
