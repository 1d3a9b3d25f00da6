"""``rectified.cu`` compiled as C++, with the arguments its launcher makes, against torch's convolution."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mtembed.kernels import rectified
from tests.tools.kernel_cases import as_c, library, parameters

BIAS = -1.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return library(tmp_path_factory.mktemp("cu"), "rectified.cu", "rectified_strips", "strip_means")


def by_kernel(built: ctypes.CDLL, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``rectified.rectified_means`` with loops in the place of a GPU; ``x`` as it wants it."""
    n, features, strips = len(x), weights.shape[3], rectified.strip_count(x.shape[2])
    partial, means = torch.full((n, strips, 2 * features), torch.nan), torch.full((n, 2 * features), torch.nan)
    first = rectified.strip_arguments(x, weights, BIAS, partial)
    built.launch_rectified_strips(n, strips, features // rectified.GROUP, 32, *map(_value, first))
    second = rectified.mean_arguments(partial, x.shape[2], means)
    blocks = -(-2 * features // rectified.THREADS)
    built.launch_strip_means(n, blocks, 1, rectified.THREADS, *map(_value, second))
    return means


def _value(value: np.generic) -> Any:
    return ctypes.c_void_p(int(value)) if value.dtype == np.uint64 else as_c(value)


def case(n: int, channels: int, size: int, features: int, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    memory = torch.rand((n, size, size, room), generator=generator)
    return memory.permute(0, 3, 1, 2), torch.randn((3, 3, channels, features), generator=generator)


@pytest.mark.parametrize(
    ("n", "channels", "size", "features", "room"),
    [(2, 13, 35, 256, 16), (1, 2, 32, 128, 2), (1, 12, 3, 128, 16), (3, 1, 18, 128, 8)],
)
def test_means_are_those_of_a_convolution(
    built: ctypes.CDLL, n: int, channels: int, size: int, features: int, room: int
) -> None:
    x, weights = case(n, channels, size, features, room)
    c = functional.conv2d(x[:, :channels].double(), weights.permute(3, 2, 0, 1).double()) + BIAS
    expected = torch.cat([c.clamp_min(0).mean((2, 3)), -c.clamp_max(0).mean((2, 3))], dim=1)
    error = (by_kernel(built, x, weights) - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-6


def test_a_fragments_bits_do_not_depend_on_its_place(built: ctypes.CDLL) -> None:
    x, weights = case(5, 13, 33, 128, 16)
    golden = by_kernel(built, x, weights)
    rolled = x.permute(0, 2, 3, 1).roll(2, 0).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(by_kernel(built, rolled, weights), golden.roll(2, 0))
    assert torch.equal(by_kernel(built, x[3:4], weights), golden[3:4])


def test_a_pixel_that_is_no_number_is_not_hidden(built: ctypes.CDLL) -> None:
    x, weights = case(2, 3, 20, 128, 8)
    x[1, 2, 7, 7] = torch.nan
    found = by_kernel(built, x, weights)
    assert found[0].isfinite().all() and found[1].isnan().all()


@pytest.mark.parametrize("kernel", ["rectified_strips", "strip_means"])
def test_the_launcher_passes_what_the_kernel_takes(kernel: str) -> None:
    x, weights = case(1, 3, 20, 128, 8)
    partial, means = torch.empty(1, 1, 256), torch.empty(1, 256)
    given = (
        rectified.strip_arguments(x, weights, BIAS, partial)
        if kernel == "rectified_strips"
        else rectified.mean_arguments(partial, 20, means)
    )
    kinds = {"int": np.int32, "float": np.float32}
    expected = [
        np.uint64 if kind.endswith("*") else kinds[kind] for kind in parameters("rectified.cu", kernel)[1].values()
    ]
    assert [value.dtype for value in given] == [np.dtype(kind) for kind in expected]
