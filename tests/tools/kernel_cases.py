"""What the tests of the kernels run: the cases, and ways to run the GPU kernels without a GPU."""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mtembed.kernels import fragment_cupy, fragment_numba, fragment_numpy
from mtembed.types import Normalisation

ROOT = Path(__file__).resolve().parents[2]
Array = npt.NDArray[Any]

REFLECTANCE = Normalisation("reflectance")
RGB = Normalisation("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DECIBEL = Normalisation("decibel", (-12.54847273, -20.19237134), (5.25697717, 5.91150917))
DTYPES = (np.float32, np.float16, np.uint16)


@dataclass(frozen=True)
class Case:
    """The arguments of one call, without ``out``."""

    raw: Array
    planes: Array
    fragments: Array
    subtract: Array
    nodata: Array
    normalisation: Normalisation
    size: int
    dtype: Any = np.float32
    channels_last: bool = False

    def inputs(self) -> tuple[Any, ...]:
        return self.raw, self.planes, self.fragments, self.subtract, self.nodata, self.normalisation

    def out(self) -> Array:
        n, bands, size = len(self.fragments), self.planes.shape[1], self.size
        filler = 77  # what a kernel that leaves a gap would leave
        if self.channels_last:
            return np.full((n, size, size, bands), filler, self.dtype).transpose(0, 3, 1, 2)
        return np.full((n, bands, size, size), filler, self.dtype)


def image_case(
    normalisation: Normalisation,
    factors: tuple[int, ...],
    sizes: tuple[tuple[int, int], ...],
    dtype: Any = np.uint16,
    size: int = 9,
    seed: int = 0,
) -> Case:
    """Cells of these finest sizes with random pixels, planes of padded rows, fragments at odd offsets and corners."""
    rng = np.random.default_rng(seed)
    parts, planes, fragments, first = [], [], [], 0
    for cell, (rows, cols) in enumerate(sizes):
        bands = []
        for factor in factors:
            stride = cols // factor + cell  # the second cell's rows are padded
            parts.append(random_pixels(rng, rows // factor * stride, dtype))
            bands.append((first, stride, factor, factor))
            first += parts[-1].size
        planes.append(bands)
        corners = [(0, cols - size), (rows - size, cols - size), (5, 3)]
        fragments += [(cell, row, col) for row, col in corners]
    return Case(
        np.concatenate(parts),
        np.array(planes, np.int64),
        np.array(fragments, np.int32)[::-1].copy(),
        np.arange(len(sizes), dtype=np.int32) * 1000,
        np.array([math.nan, -32768.0][: len(sizes)]),
        normalisation,
        size,
    )


def random_pixels(rng: np.random.Generator, count: int, dtype: Any) -> Array:
    if dtype == np.uint16:
        return rng.choice(np.array([0, 1, 999, 1000, 1001, 3999, 4000, 4001, 9999, 65535], np.uint16), count)
    pixels = rng.lognormal(-3, 2, count).astype(np.float32)
    special = [-32768, math.nan, math.inf, -math.inf, 0, -0.0, -1, 1e-10, 1e-45, 3e38]
    pixels[rng.integers(0, count, count // 4)] = rng.choice(np.array(special, np.float32), count // 4)
    return pixels


def cases() -> dict[str, Case]:
    two = ((36, 36), (48, 42))
    base = {
        "reflectance": image_case(REFLECTANCE, (1, 2, 6, 1), two),
        "rgb": image_case(RGB, (1, 1, 1), two),
        "rgb-coarse": image_case(RGB, (2, 1, 6), two),
        "decibel": image_case(DECIBEL, (1, 2), two, np.float32),
        "decibel-uint16": image_case(DECIBEL, (1, 1), two),
        "one-band": image_case(REFLECTANCE, (2,), ((36, 24),), size=7),
    }
    named = {}
    for name, case in base.items():
        for dtype in DTYPES:
            for last in (False, True):
                layout = "nhwc" if last else "nchw"
                named[f"{name}-{np.dtype(dtype)}-{layout}"] = replace(case, dtype=dtype, channels_last=last)
    named["no-fragments"] = replace(base["rgb"], fragments=np.empty((0, 3), np.int32))
    return named


CASES = cases()


def defined(case: Case) -> Array:
    out = case.out()
    fragment_numpy.fragment(*case.inputs(), out)
    return out


def bits_of(values: Array) -> Array:
    """Bits, with every NaN the same."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    plain = np.ascontiguousarray(values)
    return np.where(np.isnan(plain), unsigned.type(-1 % 2**15), plain.view(unsigned))


SIMULATED = """
import pickle, sys
from numba import cuda
from mtembed.kernels import fragment_cuda
from mtembed.kernels.select import backend
fragment_cuda.THREADS = 5  # each is a thread of the operating system; columns are then strided over
results = {}
for name, case in pickle.load(sys.stdin.buffer).items():
    *tables, out = case
    channels_last = not out.flags.c_contiguous
    target = cuda.to_device(out.transpose(0, 2, 3, 1) if channels_last else out)
    backend("cuda")(*tables, target.transpose((0, 3, 1, 2)) if channels_last else target)
    result = target.copy_to_host()
    results[name] = result.transpose(0, 3, 1, 2) if channels_last else result
pickle.dump(results, sys.stdout.buffer)
"""


def simulate() -> dict[str, Array]:
    """What the numba.cuda kernel makes of all cases in numba's simulator, which a process chooses before it starts."""
    request = pickle.dumps({name: (*case.inputs(), case.out()) for name, case in CASES.items()})
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIMULATED], input=request, capture_output=True, env=environment
    )
    assert process.returncode == 0, process.stderr.decode()
    results: dict[str, Array] = pickle.loads(process.stdout)
    return results


SHIM = """
#include <cmath>
#include <cstring>
#define __global__
#define __device__ static inline
struct dim { unsigned int x, y; };
static dim blockIdx, threadIdx, blockDim, gridDim;
static float __fmul_rn(float a, float b) { return a * b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static unsigned int __float_as_uint(float a) { unsigned int b; std::memcpy(&b, &a, 4); return b; }
static float __int_as_float(int a) { float b; std::memcpy(&b, &a, 4); return b; }
"""
LAUNCH = """
extern "C" void launch(int blocks_x, int blocks_y, int threads, %s) {
  gridDim = {(unsigned)blocks_x, (unsigned)blocks_y}; blockDim = {(unsigned)threads, 1};
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
      for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) fragment(%s);
}
"""
C_TYPES = {"int": np.int32, "long long": np.int64}


def parameters() -> tuple[str, dict[str, str]]:
    """The kernel's parameter list as written in ``fragment.cu``, and the type of each name."""
    text = (ROOT / "kernels" / "fragment.cu").read_text()
    found = re.search(r"__global__ void fragment\((.*?)\)", text, re.DOTALL)
    assert found
    pairs = (re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", part) for part in found[1].split(","))
    return found[1], {pair[2]: pair[1] for pair in pairs if pair}


def cu_arguments(case: Case, out: Array) -> dict[str, Any]:
    numbers = fragment_numpy.constants(case.normalisation, case.planes.shape[1])
    return fragment_cupy.arguments(*case.inputs()[:5], *numbers, case.normalisation.rule, out)


def compiled(folder: Path) -> Callable[[Case], Array]:
    """``fragment.cu`` as a C++ library, launched with the arguments that the CuPy launcher makes."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    listed, types = parameters()
    kernel = (ROOT / "kernels" / "fragment.cu").read_text()
    (folder / "kernel.cpp").write_text(SHIM + kernel + LAUNCH % (listed, ", ".join(types)))
    options = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function"]
    subprocess.run([compiler, *options, "kernel.cpp", "-o", "kernel.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernel.so"))

    def call(case: Case) -> Array:
        out = case.out()
        blocks = fragment_cupy.grid(len(case.fragments), case.size)
        values = [
            ctypes.c_void_p(value.ctypes.data)
            if isinstance(value, np.ndarray)
            else np.ctypeslib.as_ctypes_type(value.dtype)(int(value))
            for value in cu_arguments(case, out).values()
        ]
        library.launch(*blocks, fragment_cupy.THREADS, *values)
        return out

    return call


def compute(case: Case) -> Array:
    out = case.out()
    fragment_numba.fragment(*case.inputs(), out)
    return out
