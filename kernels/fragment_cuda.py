"""Fragment and normalise on a GPU through numba.cuda: one launch per batch of cells, one block per row.

The functions of one pixel are those of the CPU kernel; numba compiles their text for the device.  They equal the
definition bit for bit, but for rules of decibels, where log10 is the device's (within one unit in the last place of the
decibels): division is rounded to nearest (numba asks NVVM for prec-div unless fastmath is set), denormals are kept, and
no product feeds a sum, so that there is nothing which a compiler could contract into a fused multiply-add.

With ``NUMBA_ENABLE_CUDASIM=1``, set before numba is imported, the same code runs without a GPU.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numba.cuda
import numpy as np

from mtembed.kernels.fragment_numba import FLOAT16, FLOAT32, bfloat16_of, half_of, normalise_of
from mtembed.kernels.fragment_numpy import ENCODINGS, RULES, Array, check, check_bounds, constants
from mtembed.kernels.launch import THREADS, grid
from mtembed.types import Normalisation

cuda: Any = numba.cuda


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

    ``raw`` and ``out`` lie on the device: numba arrays or whatever has ``__cuda_array_interface__``, such as torch
    tensors (bfloat16 ones as ``.view(torch.uint16)``).  The four tables may lie there too; as numpy arrays they are
    uploaded, and only then are the bounds checked, for looking at the device's would stop the stream.
    The work is queued on torch's current stream, or on the default stream without torch; nothing is waited for.
    """
    if isinstance(out, np.ndarray):
        raise ValueError("out must lie on the device.")
    stream = _stream()
    tables = planes, fragments, subtract
    raw, planes, fragments, subtract, nodata, out = (
        _device(array, stream) for array in (raw, planes, fragments, subtract, nodata, out)
    )
    check(raw, planes, fragments, subtract, nodata, normalisation, out)
    n, bands, size, _ = out.shape
    if all(isinstance(table, np.ndarray) for table in tables):
        check_bounds(raw.size, *tables, size)
    if n == 0:
        return
    low, scale = _constants(normalisation, bands, cuda.gpus.current.id)
    rule, encoding = RULES[normalisation.rule], ENCODINGS[out.dtype]
    floor = np.float32(0 if raw.dtype == np.uint16 else -np.inf)
    bits = out.view(np.uint16) if encoding == FLOAT16 else out
    launch = _kernel[grid(n, size), THREADS, stream]
    launch(raw, planes, fragments, subtract, nodata, low, scale, rule, encoding, floor, bits)


def _normalise_rows(
    raw: Any,
    planes: Any,
    fragments: Any,
    subtract: Any,
    nodata: Any,
    low: Any,
    scale: Any,
    rule: Any,
    encoding: Any,
    floor: Any,
    out: Any,
) -> None:
    index, size = cuda.blockIdx.x, out.shape[3]
    cell, row, col = fragments[index, 0], fragments[index, 1], fragments[index, 2]
    offset = np.float32(subtract[cell]) if floor == 0 else np.float32(0)
    nothing = np.float32(nodata[cell])
    for r in range(cuda.blockIdx.y, size, cuda.gridDim.y):
        for c in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            for band in range(out.shape[1]):
                # Unsigned 32 bit numbers divide several times faster than signed 64 bit ones.
                source_row = np.uint32(row + r) // np.uint32(planes[cell, band, 2])
                source_col = np.uint32(col + c) // np.uint32(planes[cell, band, 3])
                start = planes[cell, band, 0] + np.int64(source_row) * planes[cell, band, 1]
                pixel = np.float32(raw[start + np.int64(source_col)])
                value = normalise_of(pixel, rule, low[band], scale[band], offset, floor, nothing)
                if encoding == FLOAT32:
                    out[index, band, r, c] = value
                else:
                    bits = np.float32(value).view(np.uint32)
                    out[index, band, r, c] = half_of(bits) if encoding == FLOAT16 else bfloat16_of(bits)


_kernel = cuda.jit(_normalise_rows)


def _device(array: Array, stream: Any) -> Any:
    """A numba device array of anything on the device, without a copy; numpy arrays are uploaded."""
    if isinstance(array, np.ndarray):
        return cuda.to_device(array, stream=stream)
    if getattr(array, "__cuda_ndarray__", False):
        return array
    return cuda.as_cuda_array(array, sync=False)


@functools.lru_cache(maxsize=64)
def _constants(normalisation: Normalisation, bands: int, device: int) -> tuple[Any, Any]:
    low, scale = constants(normalisation, bands)
    pair = cuda.to_device(low.copy()), cuda.to_device(scale.copy())
    cuda.synchronize()  # other streams will use them
    return pair


def _stream() -> Any:
    """torch's current stream where torch uses the GPU, else the default one."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    pointer = torch.cuda.current_stream().cuda_stream
    return cuda.external_stream(pointer) if pointer else cuda.default_stream()
