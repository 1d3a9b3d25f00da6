"""The small GeoTIFFs with which a GPU's decoder is tested at the start: ``python -m tests.make_encodings``."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from mtembed.engine.gpu_decode import FILES
from mtembed.messages import GPU_ENCODINGS

SHAPE = (40, 176)
STRIP_ROWS = 24  # the last strip is shorter


def pattern(dtype: str) -> np.ndarray:
    """Noise that fills LZW's table more than once in its strip, then a slope with a texture."""
    row, col = np.indices(SHAPE, np.int64)
    slope = 3 * row * row + 17 * col + (31 * row + 57 * col) % 23 * (col % 5)
    noise = np.random.default_rng(0).integers(0, 65536, SHAPE)
    values = np.where(row < STRIP_ROWS, noise, slope) % 65536
    return values.astype(np.float32) / np.float32(8) - np.float32(100) if dtype == "float32" else values.astype(dtype)


def main() -> None:
    FILES.mkdir(exist_ok=True)
    place: dict[str, Any] = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    for dtype in ("uint16", "float32"):
        for encoding in GPU_ENCODINGS:
            compress, _, predictor = encoding.partition("+")
            form: dict[str, Any] = {"compress": compress, "predictor": int(predictor or 1), "blockysize": STRIP_ROWS}
            rows, cols = SHAPE
            with MemoryFile() as memory:
                size = {"height": rows, "width": cols, "count": 1, "dtype": dtype}
                with memory.open(driver="GTiff", **size, **form, **place) as dataset:
                    dataset.write(pattern(dtype), 1)
                (FILES / f"{dtype}-{encoding}.tif").write_bytes(memory.read())


if __name__ == "__main__":
    main()
