"""Milliseconds per cell of 13 bands to decode on a GPU, by encoding and cells at a time; a step of ``bench.gpu``."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.encoded import encode
from bench.gpu_fed import device_of, options, tell
from mtembed import models
from mtembed.archive import tiff
from mtembed.archive.reader import cell_blobs
from mtembed.engine.gpu_decode import GpuDecoder
from mtembed.engine.memory import reason
from mtembed.messages import GPU_ENCODINGS

SAMPLE = Path(__file__).resolve().parents[1] / "mtembed/sample/Core-S2L1C/images/part_00001.parquet"
CELLS_AT_ONCE = (1, 4, 16)
ROUNDS = 6


def main() -> None:
    options()
    pixels = []
    for blob in cell_blobs(SAMPLE, 0, models.get("ssl4eo-s2").bands_for("S2L1C")):
        info = tiff.parse(blob)
        pixels.append(np.empty((info.rows, info.cols), info.dtype))
        tiff.decode_into(blob, info, pixels[-1])
    try:
        decoder = GpuDecoder(device_of())
    except (ImportError, OSError, RuntimeError) as error:
        tell(left_out=reason(error))
        return
    for encoding in GPU_ENCODINGS:
        try:
            blobs = [encode(band, encoding) for band in pixels]
        except ImportError as error:
            tell(**{encoding: {"left_out": str(error)}})
            continue
        decoded = decoder.decode(blobs)
        exact = all(d is not None and np.array_equal(d.cpu().numpy(), p) for d, p in zip(decoded, pixels, strict=True))
        tell(**{encoding: {"exact": exact, **{str(n): milliseconds(decoder, blobs * n) / n for n in CELLS_AT_ONCE}}})


def milliseconds(decoder: GpuDecoder, blobs: list[Any]) -> float:
    times = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        decoder.decode(blobs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
