"""The packed networks against the same networks as torch computes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mtembed import models
from mtembed.engine.packed import PackedConvolution, PackedLinear, pack
from mtembed.engine.residual import JoinedBottleneck
from mtembed.models.base import ModelSpec
from mtembed.models.networks import fill, optimise
from mtembed.types import Weights
from tests.models.parity.small_networks import error, image, shaken, small_dinov2, small_siglip
from tests.tools.commands import ROOT

SIZE = 112
SMALL = {"dinov2": small_dinov2, "siglip": small_siglip}
TRANSFORMERS, RESNETS = ("dinov2", "siglip"), ("ssl4eo-s1", "ssl4eo-s2")
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def prepared(name: str, dtype: torch.dtype) -> tuple[ModelSpec, Any, Any]:
    """The record, its network in float32 as its library computes it, and the same prepared in ``dtype``."""
    spec = SMALL[name]() if name in SMALL else models.get(name)
    networks: list[Any] = [spec.build(Weights("random:1", "", None, 1), size=SIZE) for _ in range(2)]
    for network in networks:
        fill(network, shaken(network.state_dict()), "test")
    return spec, networks[0], optimise(networks[1], dtype, True)


def packed(network: Any, x: torch.Tensor) -> Any:
    return pack(network, torch.zeros_like(x[:1]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [*TRANSFORMERS, *RESNETS])
def test_a_packed_network_computes_what_the_plain_one_does(name: str, dtype: torch.dtype) -> None:
    spec, golden, network = prepared(name, dtype)
    x = image(spec, n=3, size=SIZE)
    expected, plain = golden(x), network(x.to(dtype))
    found = packed(network, x.to(dtype))(x.to(dtype))
    assert found.dtype == torch.float32 and found.shape == (3, spec.dim)
    exact = dtype == torch.float32
    assert error(found, expected) < (2e-5 if exact else 1.5 * error(plain, expected) + 1e-3)


@pytest.mark.parametrize("name", [*TRANSFORMERS, *RESNETS])
def test_a_packed_network_is_deterministic_and_leaves_its_input_alone(name: str) -> None:
    spec, _, network = prepared(name, torch.float32)
    x = image(spec, n=3, size=SIZE)
    network = packed(network, x)
    kept = x.clone()
    first = network(x)
    assert torch.equal(x, kept)
    assert torch.equal(network(x), first)
    other = x.clone()
    other[1:] = 1 - x[1:] ** 2
    assert torch.equal(network(other)[0], first[0])


@pytest.mark.parametrize("name", RESNETS)
def test_every_convolution_of_a_resnet_is_packed(name: str) -> None:
    spec, _, network = prepared(name, torch.float32)
    network = packed(network, image(spec, size=SIZE))
    assert not any(isinstance(module, torch.nn.Conv2d) for module in network.modules())
    assert sum(isinstance(module, PackedConvolution) for module in network.modules()) == 53
    assert sum(isinstance(module, JoinedBottleneck) for module in network.modules()) == 16


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_linear_layer_of_a_transformers_blocks_is_packed(name: str) -> None:
    spec, _, network = prepared(name, torch.float32)
    network = packed(network, image(spec, size=SIZE))
    blocks = network.trunk.blocks
    assert not any(isinstance(module, torch.nn.Linear) for module in blocks.modules())
    assert sum(isinstance(module, PackedLinear) for module in blocks.modules()) == 4 * len(blocks)


def test_types_without_fast_code_and_other_networks_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _, network = prepared("ssl4eo-s1", torch.float16)
    x = image(spec, size=SIZE).to(torch.float16)
    assert not any(isinstance(module, PackedConvolution) for module in packed(network, x).modules())
    convolutions: Any = models.get("rcf").build(Weights("", "", None, 1))
    x = image(models.get("rcf"), size=224)
    expected = convolutions(x)
    assert torch.equal(packed(convolutions, x)(x), expected)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    _, _, network = prepared("ssl4eo-s1", torch.float32)
    x = image(spec, size=SIZE)
    assert not any(isinstance(module, PackedConvolution) for module in packed(network, x).modules())


@pytest.mark.parametrize("dtype", TYPES)
def test_gated_layers_are_packed_too(dtype: torch.dtype) -> None:
    """TerraMind's base has three linear layers in each, one of them a gate."""
    spec = models.get("terramind-base")
    networks: list[Any] = [spec.build(Weights("random:1", "", None, 1)) for _ in range(2)]
    x = image(spec)
    expected, plain = networks[0](x), optimise(networks[0], dtype, True)(x.to(dtype))
    found: Any = pack(optimise(networks[1], dtype, True), x[:1].to(dtype))
    assert sum(isinstance(module, PackedLinear) for module in found.modules()) == 12 * 5
    exact = dtype == torch.float32
    assert error(found(x.to(dtype)), expected) < (2e-5 if exact else 1.5 * error(plain, expected) + 1e-3)


def test_a_network_that_is_not_of_timm_does_not_load_it() -> None:
    """timm brings torchvision and torch's compiler along: seconds of every worker's start."""
    script = (
        "import sys\nfrom mtembed.engine import open_device\nfrom tests.tools.slots import job\n"
        "open_device(job('rcf', 'S1RTC', batch=2), None)\nassert 'timm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
