"""CUDA sources of this folder, compiled by NVRTC and launched through the driver: nothing beyond torch's CUDA build.

torch's wheels for CUDA bring ``cuda.bindings`` and libnvrtc.  Everything is imported at the first call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


def compiled(file: str, architecture: str) -> bytes:
    """Machine code of a source file for an architecture such as ``sm_90`` (or PTX for ``compute_90``).

    RuntimeError with the compiler's words where it cannot be compiled, ImportError without ``cuda.bindings``.
    """
    nvrtc = _bindings("nvrtc")
    source = (FOLDER / file).read_bytes()
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source, file.encode(), 0, [], []))
    try:
        code = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={architecture}".encode()])[0]
        log = bytearray(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{file} for {architecture}: {code.name}: {log.decode(errors='replace').strip()}")
        size, get = nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN
        if architecture.startswith("compute"):
            size, get = nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX
        result = bytearray(_checked(nvrtc, size(program)))
        _checked(nvrtc, get(program, result))
        return bytes(result)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@functools.cache
def architecture(capability: tuple[int, int]) -> str:
    """What to compile for a device of that compute capability: its own, or the newest PTX it can translate."""
    nvrtc = _bindings("nvrtc")
    own = capability[0] * 10 + capability[1]
    known = [int(number) for number in _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())]
    if own in known:
        return f"sm_{own}"
    older = [number for number in known if number <= own]
    if not older:
        raise RuntimeError(
            f"this CUDA compiler knows no GPU as old as compute capability {capability[0]}.{capability[1]}"
        )
    return f"compute_{max(older)}"


@functools.cache
def function(file: str, name: str, capability: tuple[int, int]) -> Any:
    """A kernel of a source file, loaded into the current context (a process has one device)."""
    driver = _bindings("driver")
    return _checked(driver, driver.cuModuleGetFunction(_module(file, capability), name.encode()))


@functools.cache
def _module(file: str, capability: tuple[int, int]) -> Any:
    driver = _bindings("driver")
    code = np.frombuffer(compiled(file, architecture(capability)) + b"\0", np.uint8)
    return _checked(driver, driver.cuModuleLoadData(code.ctypes.data))


def launch(kernel: Any, grid: Sequence[int], threads: int, arguments: Iterable[np.generic], stream: int) -> None:
    """Queue a kernel on a stream (its address); ``arguments`` are numpy scalars, addresses as uint64."""
    driver = _bindings("driver")
    values = [np.atleast_1d(value) for value in arguments]
    addresses = np.array([value.ctypes.data for value in values], np.uint64)
    x, y, z = (*grid, 1, 1)[:3]
    result = driver.cuLaunchKernel(kernel, x, y, z, threads, 1, 1, 0, driver.CUstream(stream), addresses.ctypes.data, 0)
    _checked(driver, result)


def address(tensor: Any) -> np.uint64:
    """A torch tensor as a kernel's argument."""
    return np.uint64(tensor.data_ptr())


def current(torch: Any) -> tuple[int, tuple[int, int]]:
    """torch's current stream and the compute capability of its device."""
    return torch.cuda.current_stream().cuda_stream, torch.cuda.get_device_capability()


def _bindings(name: str) -> Any:
    try:
        module = __import__(f"cuda.bindings.{name}", fromlist=[name])
    except ImportError as error:
        raise ImportError("cuda.bindings is missing; it comes with torch's CUDA build.") from error
    return module


def _checked(library: Any, result: tuple[Any, ...]) -> Any:
    """What a call gave; RuntimeError with the name of its error."""
    code, *values = result
    if int(code):
        raise RuntimeError(f"CUDA error: {code.name}")
    return values[0] if values else None


def torch_module() -> Any:
    """torch, which a caller with tensors has loaded."""
    return sys.modules["torch"]
