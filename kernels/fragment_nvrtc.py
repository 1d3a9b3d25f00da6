"""Fragment and normalise on a GPU with what torch brings: ``fragment.cu``, one launch per batch of cells.

Equal to the definition bit for bit, but for rules of decibels (log10 is the device's; within one unit in the last place
of the decibels).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mtembed.kernels.driver import address, current, function, launch, torch_module
from mtembed.kernels.fragment_numpy import Array, check, check_bounds, constants
from mtembed.kernels.launch import THREADS, arguments, grid
from mtembed.types import Normalisation


def fragment(
    raw: Array,
    planes: Array,
    fragments: Array,
    subtract: Array,
    nodata: Array,
    normalisation: Normalisation,
    out: Array,
) -> None:
    """Cut, upsample (nearest), normalise and cast into ``out``; ValueError if an argument does not fit.

    ``raw`` and ``out`` are torch tensors on the device (bfloat16 ones as ``.view(torch.uint16)``).  The four tables may
    be too; as numpy arrays they are uploaded, and only then are the bounds checked, for looking at the device's would
    stop the stream.  The work is queued on torch's current stream; nothing is waited for.
    """
    if isinstance(out, np.ndarray):
        raise ValueError("out must lie on the device.")
    n, bands, size, _ = out.shape
    if all(isinstance(table, np.ndarray) for table in (planes, fragments, subtract)):
        check_bounds(raw.numel(), planes, fragments, subtract, size)
    raw, planes, fragments, subtract, nodata, out, low, scale = (
        _View(array, out.device)
        for array in (raw, planes, fragments, subtract, nodata, out, *_constants(normalisation, bands, str(out.device)))
    )
    check(raw, planes, fragments, subtract, nodata, normalisation, out)
    if n == 0:
        return
    named = arguments(raw, planes, fragments, subtract, nodata, low, scale, normalisation.rule, out)
    stream, capability = current(torch_module())
    values = [value.address if isinstance(value, _View) else value for value in named.values()]
    launch(function("fragment.cu", "fragment", capability), grid(n, size), THREADS, values, stream)


class _View:
    """A tensor on the device as the checks see it: like a numpy array, without its elements."""

    def __init__(self, array: Any, device: Any) -> None:
        tensor = torch_module().from_numpy(array).to(device) if isinstance(array, np.ndarray) else array
        self.tensor = tensor  # held until the launch is queued; its memory is the stream's
        self.shape = tuple(tensor.shape)
        self.dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        self.strides = tuple(stride * self.dtype.itemsize for stride in tensor.stride())
        self.address = address(tensor)


@functools.lru_cache(maxsize=64)
def _constants(normalisation: Normalisation, bands: int, device: str) -> tuple[Any, Any]:
    torch = torch_module()
    low, scale = (torch.from_numpy(values.copy()).to(device) for values in constants(normalisation, bands))
    torch.cuda.synchronize()  # other streams will use them
    return low, scale
