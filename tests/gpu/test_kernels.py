"""Kernels on a GPU against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mtembed.kernels import fragment_numpy
from mtembed.kernels.rectified import rectified_means
from mtembed.kernels.select import GPU_BACKENDS, backend
from tests.tools.kernel_cases import CASES, bits_of, defined

KINDS = {"float32": torch.float32, "float16": torch.float16, "uint16": torch.uint16}


def on_gpu(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", GPU_BACKENDS)
def test_every_backend_equals_the_definition(which: str, name: str) -> None:
    case = CASES[name]
    if which == "cupy":
        pytest.importorskip("cupy")
    tables = [on_gpu(array) for array in case.inputs()[:5]]
    memory = on_gpu(case.memory())
    backend(which)(*tables, case.normalisation, case.seen(memory) if not case.channels_last else seen(memory, case))
    found = case.seen(memory.cpu().numpy())
    expected = defined(case)
    if not case.normalisation.rule.startswith("decibel"):
        assert np.array_equal(bits_of(found), bits_of(expected))
    elif expected.dtype == np.float32:
        _, scale = fragment_numpy.constants(case.normalisation, expected.shape[1])
        unit = np.finfo(np.float32).eps * np.maximum(np.abs(expected), 1)
        assert (np.abs(found - expected) <= 2e-6 / scale.min() + unit).all()
    else:
        assert np.abs(bits_of(found).astype(int) - bits_of(expected).astype(int)).max() <= 1


def seen(memory: torch.Tensor, case: Any) -> torch.Tensor:
    return memory[..., : case.planes.shape[1]].permute(0, 3, 1, 2)


@pytest.mark.parametrize(("channels", "size", "room"), [(13, 224, 16), (2, 224, 8), (12, 97, 16)])
def test_random_convolutions_in_one_pass_are_those_of_torch(channels: int, size: int, room: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.rand((5, size, size, room), generator=generator).cuda().permute(0, 3, 1, 2)
    weights = torch.randn((3, 3, channels, 256), generator=generator).cuda()
    found = rectified_means(x, weights, -1.0)
    c = functional.conv2d(x[:, :channels].double(), weights.permute(3, 2, 0, 1).double()) - 1.0
    expected = torch.cat([c.clamp_min(0).mean((2, 3)), -c.clamp_max(0).mean((2, 3))], dim=1)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-6
    alone = rectified_means(x[3:4].contiguous(memory_format=torch.channels_last), weights, -1.0)
    assert torch.equal(alone[0], found[3])
