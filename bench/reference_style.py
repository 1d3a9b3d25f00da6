"""A loop in the style of the published notebook, in our own few lines: one cell at a time, everything in one process.

Reads a row with ``as_py``, decodes each band with rasterio, upsamples, stacks and casts on the CPU, cuts all fragments
and runs the plain fp32 network on them as one NCHW batch with all cores.  Prints cells/s after one warm-up cell.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from rasterio.io import MemoryFile

from mtembed import models
from mtembed.geo.fragments import FragmentGrid
from mtembed.models import weights

CELLS = 3


def main() -> None:
    spec = models.get(sys.argv[1])
    network = spec.build(weights.resolve(spec, "random:1" if spec.trained else None))
    file = pq.ParquetFile(Path(sys.argv[2]))
    torch.set_grad_enabled(False)
    one_cell(file, 0, spec, network)
    rows = range(1, min(1 + CELLS, file.metadata.num_rows))
    started = time.perf_counter()
    for row in rows:
        one_cell(file, row, spec, network)
    print(len(rows) / (time.perf_counter() - started))


def one_cell(file: pq.ParquetFile, row: int, spec: models.ModelSpec, network: torch.nn.Module) -> np.ndarray:
    bands = spec.bands_for(spec.source)
    table = file.read_row_group(row, columns=list(bands))
    planes = []
    for band in bands:
        with MemoryFile(table[band][0].as_py()) as memory, memory.open(driver="GTiff") as dataset:
            planes.append(dataset.read(1))
    side = max(len(plane) for plane in planes)
    cube = np.stack([p.repeat(side // len(p), 0).repeat(side // len(p), 1) for p in planes], -1).astype(np.float32)
    corners = FragmentGrid.of(side, side, spec.size, 0.1, True).offsets()
    cuts = [cube[r : r + spec.size, c : c + spec.size] for r, c in corners.tolist()]
    fragments = torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).contiguous()
    return np.asarray(network(prepared(fragments, spec)).numpy())


def prepared(x: torch.Tensor, spec: models.ModelSpec) -> torch.Tensor:
    """The model's normalisation with plain torch operations."""
    rule = spec.normalisation_for(spec.source)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (rule.mean or (0.0,), rule.std or (1.0,)))
    if rule.rule == "decibel":
        decibel = 10 * x.clip(min=1e-10).log10()
        return ((decibel - (mean - 2 * std)) / (4 * std)).clip(0, 1)
    if rule.rule == "rgb":
        return ((2.5 * x / 10000).clip(0, 1) - mean) / std
    if rule.rule == "decibel-standard":
        return (10 * x.clip(min=1e-10).log10() - mean) / std
    if rule.rule.startswith("standard"):
        return (x - mean) / std
    return x / 10000


if __name__ == "__main__":
    main()
