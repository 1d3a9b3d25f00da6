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

from mtembed.kernels import fragment_numba, fragment_numpy, launch
from mtembed.types import Normalisation

ROOT = Path(__file__).resolve().parents[2]
Array = npt.NDArray[Any]

REFLECTANCE = Normalisation("reflectance")
RGB = Normalisation("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DECIBEL = Normalisation("decibel", (-12.54847273, -20.19237134), (5.25697717, 5.91150917))
STANDARD = Normalisation("standard", (1390.458, -3.5), (2106.761, 0.25))
STANDARD_VALID = Normalisation("standard-valid", (1349.3977794889083, 0.0), (2340.2916479338087, 1e-3))
DECIBEL_STANDARD = Normalisation("decibel-standard", (-10.93, -17.329), (4.391, 4.459))
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
    room: int = 0  # channels that a pixel of ``out`` has room for, where that is more than the bands

    def inputs(self) -> tuple[Any, ...]:
        return self.raw, self.planes, self.fragments, self.subtract, self.nodata, self.normalisation

    def memory(self) -> Array:
        """What ``out`` is a view of: [n, bands, size, size], or [n, size, size, room]."""
        n, bands, size = len(self.fragments), self.planes.shape[1], self.size
        shape = (n, size, size, self.room or bands) if self.channels_last else (n, bands, size, size)
        return np.full(shape, 77, self.dtype)  # a kernel that leaves a gap would leave it

    def seen(self, memory: Array) -> Array:
        """``out`` of its memory."""
        return memory[..., : self.planes.shape[1]].transpose(0, 3, 1, 2) if self.channels_last else memory

    def out(self) -> Array:
        return self.seen(self.memory())


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
        "standard": image_case(STANDARD, (2, 1), two),
        "standard-float": image_case(STANDARD, (1, 1), two, np.float32),
        "standard-valid": image_case(STANDARD_VALID, (1, 6), two),
        "standard-valid-float": image_case(STANDARD_VALID, (1, 2), two, np.float32),
        "decibel-standard": image_case(DECIBEL_STANDARD, (1, 2), two, np.float32),
        "decibel-standard-uint16": image_case(DECIBEL_STANDARD, (1, 1), two),
        "one-band": image_case(REFLECTANCE, (2,), ((36, 24),), size=7),
    }
    named = {}
    for name, case in base.items():
        for dtype in DTYPES:
            for last in (False, True):
                layout = "nhwc" if last else "nchw"
                named[f"{name}-{np.dtype(dtype)}-{layout}"] = replace(case, dtype=dtype, channels_last=last)
    for room in (5, 8, 16):
        for dtype in DTYPES:
            wide = replace(base["reflectance"], dtype=dtype, channels_last=True, room=room)
            named[f"reflectance-{np.dtype(dtype)}-room-{room}"] = wide
    named["one-band-room-8"] = replace(base["one-band"], channels_last=True, room=8)
    named["decibel-room-8"] = replace(base["decibel"], dtype=np.uint16, channels_last=True, room=8)
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
    *tables, memory, bands = case
    target = cuda.to_device(memory)
    backend("cuda")(*tables, target[..., :bands].transpose((0, 3, 1, 2)) if bands else target)
    results[name] = target.copy_to_host()
pickle.dump(results, sys.stdout.buffer)
"""


def simulate() -> dict[str, Array]:
    """What the numba.cuda kernel makes of all cases in numba's simulator, which a process chooses before it starts."""
    request = pickle.dumps(
        {
            name: (*case.inputs(), case.memory(), case.planes.shape[1] if case.channels_last else 0)
            for name, case in CASES.items()
        }
    )
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIMULATED], input=request, capture_output=True, env=environment
    )
    assert process.returncode == 0, process.stderr.decode()
    return {name: CASES[name].seen(memory) for name, memory in pickle.loads(process.stdout).items()}


SHIM = """
#include <cmath>
#include <cstring>
#define __global__
#define __device__ static inline
struct dim { unsigned int x, y, z; };
static dim blockIdx, threadIdx, blockDim, gridDim;
struct alignas(16) uint4 { unsigned int x, y, z, w; };
static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w) { return {x, y, z, w}; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static unsigned int __float_as_uint(float a) { unsigned int b; std::memcpy(&b, &a, 4); return b; }
static float __int_as_float(int a) { float b; std::memcpy(&b, &a, 4); return b; }
"""
LAUNCH = """
extern "C" void launch_{name}(int blocks_x, int blocks_y, int blocks_z, int threads, {listed}) {{
  gridDim = {{(unsigned)blocks_x, (unsigned)blocks_y, (unsigned)blocks_z}}; blockDim = {{(unsigned)threads, 1, 1}};
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
      for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) {name}({names});
}}
"""
C_TYPES = {"int": np.int32, "long long": np.int64}


def parameters(file: str = "fragment.cu", kernel: str = "fragment") -> tuple[str, dict[str, str]]:
    """A kernel's parameter list as written in its file, and the type of each name."""
    text = (ROOT / "kernels" / file).read_text()
    found = re.search(rf"__global__ void {kernel}\((.*?)\)", text, re.DOTALL)
    assert found
    pairs = (re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", part) for part in found[1].split(","))
    return found[1], {pair[2]: pair[1] for pair in pairs if pair}


def cu_arguments(case: Case, out: Array) -> dict[str, Any]:
    numbers = fragment_numpy.constants(case.normalisation, case.planes.shape[1])
    return launch.arguments(*case.inputs()[:5], *numbers, case.normalisation.rule, out)


def library(folder: Path, file: str, *kernels: str) -> ctypes.CDLL:
    """A CUDA source compiled as C++, with ``launch_NAME(blocks x 3, threads, arguments)`` for each of its kernels."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    text = SHIM + (ROOT / "kernels" / file).read_text()
    for name in kernels:
        listed, types = parameters(file, name)
        text += LAUNCH.format(name=name, listed=listed, names=", ".join(types))
    (folder / "kernel.cpp").write_text(text)
    options = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror"]
    ignored = ["-Wno-unused-function", "-Wno-unknown-pragmas"]
    subprocess.run([compiler, *options, *ignored, "kernel.cpp", "-o", "kernel.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def as_c(value: Any) -> Any:
    """A kernel's argument: the address of an array, or a number of its type."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())


def compiled(folder: Path) -> Callable[[Case], Array]:
    """``fragment.cu`` as a C++ library, launched with the arguments that the launchers make."""
    built = library(folder, "fragment.cu", "fragment")

    def call(case: Case) -> Array:
        out = case.out()
        blocks = launch.grid(len(case.fragments), case.size)
        built.launch_fragment(*blocks, 1, launch.THREADS, *map(as_c, cu_arguments(case, out).values()))
        return out

    return call


def compute(case: Case) -> Array:
    out = case.out()
    fragment_numba.fragment(*case.inputs(), out)
    return out
