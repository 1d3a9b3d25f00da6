"""Networks with joined steps and widened inputs compute what the plain ones do; what they are not made for stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from mtembed import models
from mtembed.engine.fused import FusedConvolution, RectifiedMeans, fuse, widen
from mtembed.models.base import ModelSpec
from mtembed.models.networks import fill, optimise
from mtembed.types import Weights
from tests.models.parity.small_networks import error, image, shaken, small_dinov2, small_siglip

SIZE = 112
SMALL = {"dinov2": small_dinov2, "siglip": small_siglip}
ALL = ("dinov2", "siglip", "ssl4eo-s1", "ssl4eo-s2")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def prepared(name: str, dtype: torch.dtype) -> tuple[ModelSpec, Any, Any]:
    """The record, its network in float32, and the same prepared in ``dtype``."""
    spec = SMALL[name]() if name in SMALL else models.get(name)
    networks: list[Any] = [spec.build(Weights("random:1", "", None, 1), size=SIZE) for _ in range(2)]
    for network in networks:
        fill(network, shaken(network.state_dict()), "test")
    return spec, networks[0], optimise(networks[1], dtype, True)


def wide(x: torch.Tensor, channels: int) -> torch.Tensor:
    """``x`` with room for more channels, in channels-last memory."""
    memory = torch.zeros((len(x), *x.shape[2:], channels), dtype=x.dtype)
    memory[..., : x.shape[1]] = x.permute(0, 2, 3, 1)
    return memory.permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_a_fused_and_widened_network_computes_what_the_plain_one_does(name: str, dtype: torch.dtype) -> None:
    spec, golden, network = prepared(name, dtype)
    x = image(spec, n=3, size=SIZE)
    expected, plain = golden(x), network(x.to(dtype))
    channels = widen(network)
    assert channels == (0 if dtype == torch.float32 else -(-x.shape[1] // 8) * 8)
    found = fuse(network)(wide(x.to(dtype), channels or x.shape[1]))
    assert found.dtype == torch.float32 and found.shape == (3, spec.dim)
    exact = dtype == torch.float32
    assert error(found, expected) < (2e-5 if exact else 1.5 * error(plain, expected) + 1e-3)


@pytest.mark.parametrize("name", ["ssl4eo-s1", "ssl4eo-s2"])
def test_every_convolution_of_a_resnet_is_joined_and_channels_last(name: str) -> None:
    _, _, network = prepared(name, torch.bfloat16)
    channels = widen(network)
    network = fuse(network)
    assert not any(isinstance(module, nn.Conv2d) for module in network.modules())
    joined = [module for module in network.modules() if isinstance(module, FusedConvolution)]
    assert len(joined) == 53
    assert all(one.weight.is_contiguous(memory_format=torch.channels_last) for one in joined)
    assert sum(one.bias is None for one in joined) == 4  # a shortcut's bias is its block's
    maps = []
    hooks = [one.register_forward_pre_hook(lambda module, given: maps.append(given[0])) for one in joined]
    network(torch.zeros((2, channels, SIZE, SIZE), dtype=torch.bfloat16).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    assert maps and all(one.is_contiguous(memory_format=torch.channels_last) for one in maps)


def test_resnets_of_another_kind_stay_as_they_are() -> None:
    import timm

    from mtembed.models.networks import PooledMap

    for name in ("seresnet50", "resnet50d", "resnetblur50", "resnet18"):
        network = PooledMap(timm.create_model(name, pretrained=False, num_classes=0))
        optimise(network.eval(), torch.float32, True)
        x = torch.rand(1, 3, 64, 64)
        expected = network(x)
        assert torch.equal(fuse(network)(x), expected), name


def test_random_convolutions_get_their_kernel_in_float32_only() -> None:
    spec = models.get("rcf")
    plain: Any = spec.build(Weights("", "", None, 1))
    network = optimise(spec.build(Weights("", "", None, 1)), torch.float32, True)
    assert widen(network) == 16
    fused = fuse(network)
    assert isinstance(fused, RectifiedMeans) and fused.weights.shape == (3, 3, 13, 256)
    x = image(spec, size=64)
    assert error(fused(wide(x, 16)), plain(x)) < 1e-5
    half = optimise(spec.build(Weights("", "", None, 1)), torch.bfloat16, True)
    assert fuse(half) is half and widen(half) == 0
