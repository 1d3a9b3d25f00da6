"""DeCUR and MMEarth in the layouts of their published files, against other constructions on random weights."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from mtembed import models
from mtembed.errors import WeightsError
from mtembed.models.networks import optimise
from mtembed.types import Weights
from tests.models.parity.small_networks import PARITY, State, error, from_file, image, shaken

# torchgeo and what it imports warn about their own dependencies and about coming changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning"),
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


# DeCUR

BACKBONES = {"decur-s1": "backbone_1", "decur-s2": "backbone_2"}


def torchvision_resnet(channels: int, seed: int) -> tuple[Any, State]:
    """A ResNet50 as DeCUR's code makes it: torchvision's, with another first layer and no last one."""
    from torchvision.models import resnet50

    network = resnet50()
    network.conv1 = torch.nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.fc = torch.nn.Identity()
    state = shaken(network.state_dict(), seed)
    network.load_state_dict(state, strict=False)
    return network.eval(), state


@pytest.mark.parametrize("kind", ["checkpoint", "backbone"])
@pytest.mark.parametrize("name", BACKBONES)
def test_decur_equals_torchvision_in_every_layout(name: str, kind: str, tmp_path: Path) -> None:
    spec = models.get(name)
    radar, optical = torchvision_resnet(2, 3), torchvision_resnet(13, 4)
    theirs, state = radar if name == "decur-s1" else optical
    if kind == "checkpoint":
        state = {f"module.backbone_1.{key}": value for key, value in radar[1].items()}
        state |= {f"module.backbone_2.{key}": value for key, value in optical[1].items()}
        state |= {f"module.projector{i}.{j}.weight": torch.ones(3) for i in (1, 2) for j in (0, 1, 3, 4, 6)}
        state |= {"module.bn.running_mean": torch.zeros(3), "module.bn.num_batches_tracked": torch.tensor(1)}
        torch.save({"model": state, "epoch": 100, "args": Namespace(lr=0.2)}, tmp_path / "w.pth")
        ours = spec.build(Weights("w.pth", "", tmp_path / "w.pth", None))
    else:
        ours = from_file(spec, state, tmp_path / "w.pth")
    x = image(spec)
    assert error(ours(x), theirs(x)) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=True)(x), theirs(x)) < PARITY


def test_decur_with_deformable_attention_is_refused(tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in torchvision_resnet(2, 3)[1].items()}
    with pytest.raises(WeightsError, match=r"unexpected .*\(backbone\.bn1"):
        from_file(models.get("decur-s1"), {**state, "da1_l3.weight": torch.ones(3)}, tmp_path / "w.pth")


# MMEarth

DEPTHS, WIDTHS = (2, 2, 6, 2), (40, 80, 160, 320)


def sparse_file(seed: int = 7) -> State:
    """A pretraining checkpoint as MinkowskiEngine names and shapes it, all random."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        return mean + scale * torch.randn(shape, generator=generator)

    def norm(key: str, width: int) -> State:
        return {f"{key}.ln.weight": drawn(width, scale=0.2, mean=1), f"{key}.ln.bias": drawn(width, scale=0.3)}

    def kernel(key: str, positions: int, *widths: int) -> State:
        scale = (positions * (widths[0] if len(widths) > 1 else 1)) ** -0.5
        return {
            f"{key}.kernel": drawn(positions, *widths, scale=scale),
            f"{key}.bias": drawn(1, widths[-1], scale=0.3),
        }

    state = kernel("initial_conv.0", 9, 12, 40) | norm("initial_conv.1", 40)
    state |= kernel("stem.0", 1, 40) | norm("stem.1", 40)
    for i in range(3):
        state |= norm(f"downsample_layers.{i}.0", WIDTHS[i])
        state |= kernel(f"downsample_layers.{i}.1", 4, WIDTHS[i], WIDTHS[i + 1])
    for i, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        for block in (f"stages.{i}.{j}" for j in range(depth)):
            state |= kernel(f"{block}.dwconv", 49, width) | norm(f"{block}.norm", width)
            for name, rows, cols in (("pwconv1", 4 * width, width), ("pwconv2", width, 4 * width)):
                state[f"{block}.{name}.linear.weight"] = drawn(rows, cols, scale=cols**-0.5)
                state[f"{block}.{name}.linear.bias"] = drawn(rows, scale=0.3)
            state |= {f"{block}.grn.{part}": drawn(1, 4 * width, scale=0.3) for part in ("gamma", "beta")}
    beside = ("decoder_dict.sentinel1.weight", "pred_dict.era5.bias", "proj.weight", "mask_token", "loss_fn.log_vars.x")
    return {f"encoder.{key}": value for key, value in state.items()} | {key: torch.ones(3) for key in beside}


def by_positions(x: torch.Tensor, kernel: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    """A sparse kernel summed position by position, which run down the columns first: [n, C, h, w] to the same."""
    x = functional.pad(x, (padding,) * 4)
    side = round(kernel.shape[0] ** 0.5)
    rows, cols = ((length - side) // stride + 1 for length in x.shape[2:])
    total: Any = 0
    for position, weight in enumerate(kernel):
        col, row = divmod(position, side)
        part = x[:, :, row : row + (rows - 1) * stride + 1 : stride, col : col + (cols - 1) * stride + 1 : stride]
        if weight.ndim == 1:
            total = total + part * weight[:, None, None]
        else:
            total = total + torch.einsum("nihw,io->nohw", part, weight)
    return total  # type: ignore[no-any-return]


def reference(state: State, x: torch.Tensor) -> torch.Tensor:
    """MMEarth's encoder in float64, straight from the file's tensors: the map [n, 320, m, m]."""
    p = {key.removeprefix("encoder."): value.double() for key, value in state.items()}

    def norm(key: str, y: torch.Tensor) -> torch.Tensor:
        centred = y - y.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * p[f"{key}.ln.weight"][:, None, None] + p[f"{key}.ln.bias"][:, None, None]

    def convolved(key: str, y: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
        return by_positions(y, p[f"{key}.kernel"], stride, padding) + p[f"{key}.bias"][0, :, None, None]

    def linear(key: str, y: torch.Tensor) -> torch.Tensor:
        weight, bias = p[f"{key}.linear.weight"], p[f"{key}.linear.bias"]
        return torch.einsum("nihw,oi->nohw", y, weight) + bias[:, None, None]

    def block(key: str, y: torch.Tensor) -> torch.Tensor:
        inner = functional.gelu(linear(f"{key}.pwconv1", norm(f"{key}.norm", convolved(f"{key}.dwconv", y, 1, 3))))
        size = inner.square().sum((2, 3), keepdim=True).sqrt()
        share = size / (size.mean(1, keepdim=True) + 1e-4)
        gamma, beta = (p[f"{key}.grn.{part}"][0, :, None, None] for part in ("gamma", "beta"))
        return y + linear(f"{key}.pwconv2", gamma * inner * share + beta + inner)

    y = functional.gelu(norm("initial_conv.1", convolved("initial_conv.0", x.double())))
    y = norm("stem.1", convolved("stem.0", y))
    for i, depth in enumerate(DEPTHS):
        if i:
            y = convolved(f"downsample_layers.{i - 1}.1", norm(f"downsample_layers.{i - 1}.0", y), stride=2)
        for j in range(depth):
            y = block(f"stages.{i}.{j}", y)
    return y


def test_mmearth_equals_the_plain_formulas(tmp_path: Path) -> None:
    spec, state = models.get("mmearth"), sparse_file()
    torch.save({"model": state, "optimizer": {}, "args": Namespace(patch_size=8)}, tmp_path / "w.pth")
    ours: Any = spec.build(Weights("w.pth", "", tmp_path / "w.pth", None))
    x = image(spec, size=67) - 0.5
    expected = reference(state, x)
    assert expected.shape == (2, 320, 8, 8)
    assert error(ours.trunk.forward_features(x).flatten(1), expected.flatten(1)) < PARITY
    assert error(ours(x), expected.mean((2, 3))) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=True)(x), expected.mean((2, 3))) < PARITY


def test_mmearth_reads_a_file_in_torchs_own_layout(tmp_path: Path) -> None:
    spec = models.get("mmearth")
    first: Any = spec.build(Weights("random:3", "", None, 3))
    state = {**first.trunk.state_dict(), "norm.weight": torch.ones(320), "head.weight": torch.ones(3, 320)}
    x = image(spec, size=40)
    assert torch.equal(from_file(spec, state, tmp_path / "w.pth")(x), first(x))


@pytest.mark.parametrize(("size", "side"), [(10, 1), (56, 6), (64, 7), (224, 27), (264, 32)])
def test_the_map_of_mmearth_has_a_vector_for_every_8_pixels(size: int, side: int) -> None:
    network: Any = models.get("mmearth").build(Weights("random:3", "", None, 3))
    assert network.trunk.forward_features(torch.rand(1, 12, size, size)).shape == (1, 320, side, side)
