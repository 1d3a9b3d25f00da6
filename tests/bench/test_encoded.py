"""Compressed TIFFs that the benchmarks make from pixels hold these pixels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from rasterio.io import MemoryFile

from bench.encoded import encode


@pytest.mark.parametrize("encoding", ["deflate", "deflate+2", "lzw", "lzw+2"])
def test_gdal_reads_the_same_pixels(encoding: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (70, 61), dtype=np.uint16)
    with warnings.catch_warnings(), MemoryFile(encode(pixels, encoding).tobytes()) as memory:
        warnings.simplefilter("ignore")  # the file has no place on Earth
        with memory.open(driver="GTiff") as dataset:
            assert dataset.compression.value.lower() == encoding.partition("+")[0]
            assert np.array_equal(dataset.read(1), pixels)
