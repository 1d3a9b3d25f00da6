"""Fragment and normalise on a GPU through CuPy: ``fragment.cu``, one launch per batch of cells.

Equal to the definition bit for bit, but for rules of decibels (log10 is the device's; within one unit in the last place
of the decibels).  CuPy is imported at the first call.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

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

    ``raw`` and ``out`` lie on the device: CuPy arrays or whatever has ``__cuda_array_interface__`` or speaks DLPack,
    such as torch tensors (bfloat16 ones as ``.view(torch.uint16)``); nothing is copied.  The four tables may lie there
    too; as numpy arrays they are uploaded, and only then are the bounds checked, for looking at the device's would stop
    the stream.  The work is queued on torch's current stream, or on CuPy's without torch; nothing is waited for.
    ImportError without CuPy.
    """
    cupy = _cupy()
    if isinstance(out, np.ndarray):
        raise ValueError("out must lie on the device.")
    tables = planes, fragments, subtract
    with _stream(cupy):
        raw, planes, fragments, subtract, nodata, out = (
            _device(cupy, array) for array in (raw, planes, fragments, subtract, nodata, out)
        )
        check(raw, planes, fragments, subtract, nodata, normalisation, out)
        n, bands, size, _ = out.shape
        if all(isinstance(table, np.ndarray) for table in tables):
            check_bounds(raw.size, *tables, size)
        if n == 0:
            return
        low, scale = _constants(normalisation, bands, cupy.cuda.Device().id)
        named = arguments(raw, planes, fragments, subtract, nodata, low, scale, normalisation.rule, out)
        _kernel()(grid(n, size), (THREADS,), tuple(named.values()))


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError("The cupy backend needs CuPy; install the extra mtembed[gpu].") from error
    return cupy


def _stream(cupy: Any) -> Any:
    """A context: torch's current stream where torch uses the GPU, else CuPy's own."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return cupy.cuda.get_current_stream()
    stream = torch.cuda.current_stream()
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):  # CuPy >= 14, torch >= 2.10
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


def _device(cupy: Any, array: Array) -> Any:
    """A CuPy array of anything on the device, without a copy; numpy arrays are uploaded."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_array_interface__"):
        return cupy.asarray(array)
    return cupy.from_dlpack(array)


@functools.cache
def _kernel() -> Any:
    """The compiled kernel; CuPy builds it per device at its first launch and keeps it on disk."""
    code = Path(__file__).with_name("fragment.cu").read_text(encoding="utf-8")
    return _cupy().RawModule(code=code).get_function("fragment")


@functools.lru_cache(maxsize=64)
def _constants(normalisation: Normalisation, bands: int, device: int) -> tuple[Any, Any]:
    low, scale = constants(normalisation, bands)
    cupy = _cupy()
    pair = cupy.asarray(low), cupy.asarray(scale)
    cupy.cuda.get_current_stream().synchronize()  # other streams will use them
    return pair
