"""From decoded cells to network input: the fused kernel of a device with the normalisation of a model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from mtembed.kernels.select import Fragment
from mtembed.types import Normalisation


class Cells(Protocol):
    """Decoded cells as the kernels want them (see ``kernels/fragment_numpy.py``): arrays, or tensors on a device.

    ``raw`` [elements] uint16 or float32, ``planes`` int64 [cells, bands, 4], ``subtract`` int32 [cells], ``nodata``
    float64 [cells].
    """

    @property
    def raw(self) -> Any: ...
    @property
    def planes(self) -> Any: ...
    @property
    def subtract(self) -> Any: ...
    @property
    def nodata(self) -> Any: ...


class Cutter:
    """Cuts, upsamples, normalises and casts fragments in one pass; on a GPU it is queued and not waited for."""

    def __init__(self, kernel: Fragment, normalisation: Normalisation) -> None:
        self._kernel = kernel
        self._normalisation = normalisation

    def __call__(self, cells: Cells, fragments: Any, out: Any) -> None:
        """Write ``fragments`` (int32 [n, 3]: cell, row, col) as network input into ``out`` [n, bands, size, size]."""
        raw, planes, fragments, subtract, nodata, out = (
            _as_array(array) for array in (cells.raw, cells.planes, fragments, cells.subtract, cells.nodata, out)
        )
        self._kernel(raw, planes, fragments, subtract, nodata, self._normalisation, out)


def _as_array(values: Any) -> Any:
    """A tensor as the kernels take it: bfloat16 as its bits, on the CPU as a numpy array."""
    if isinstance(values, np.ndarray):
        return values
    tensor = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
    return tensor if tensor.is_cuda else tensor.numpy()
