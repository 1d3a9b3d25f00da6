"""Networks against independent libraries on the same (random) weights: largest relative L2 error 1e-5 in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtembed import models
from mtembed.models.networks import LatentPool, optimise, resampled_positions
from mtembed.models.rcf import BIAS, filters
from mtembed.models.weights import resolve
from tests.models.parity.small_networks import (
    PARITY,
    State,
    error,
    from_file,
    image,
    shaken,
    small_dinov2,
    small_siglip,
)

# torchgeo, transformers and what they import warn about their own dependencies and about coming changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning"),
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


# ResNet50


@pytest.mark.parametrize("name", ["ssl4eo-s2", "ssl4eo-s1"])
def test_resnet_equals_torchgeo(name: str, tmp_path: Path) -> None:
    from torchgeo.models import resnet50

    spec = models.get(name)
    channels = len(spec.bands[spec.source])
    theirs = resnet50(weights=None, in_chans=channels, num_classes=0).eval()
    state = shaken(theirs.state_dict())
    theirs.load_state_dict(state, strict=False)
    ours = from_file(spec, {**state, "fc.weight": torch.ones(3), "fc.bias": torch.ones(3)}, tmp_path / "w.pth")
    x = image(spec)
    expected = theirs(x)
    assert error(ours(x), expected) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=True)(x), expected) < PARITY
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ours.modules())


# DINOv2


def transformers_dinov2(**options: Any) -> Any:
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **options)).eval()
    state = shaken(model.state_dict())
    model.load_state_dict(state)
    return model, state


SMALL = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
IN_FILES = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}


def renamed(state: State, names: dict[str, str]) -> State:
    result = {}
    for key, tensor in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        result[key] = tensor
    return result


def facebook(state: State) -> State:
    """Return a transformers state under the keys of facebookresearch/dinov2's own files, mask token included."""
    names = {
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.": "",
        "encoder.layer": "blocks",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
        "attention.output.dense": "attn.proj",
    }
    flat = renamed(renamed(state, IN_FILES), names)
    for key in [key for key in flat if ".query." in key]:
        parts = [flat.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        flat[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return flat


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", ["files", "memory", "facebook"])
def test_dinov2_equals_transformers_in_every_layout(layout: str, suffix: str, tmp_path: Path) -> None:
    spec = small_dinov2()
    theirs, state = transformers_dinov2(**SMALL)
    state = renamed(state, IN_FILES)  # whichever names the installed transformers uses in memory
    if layout == "memory":
        state = renamed(state, {new: old for old, new in IN_FILES.items()})
    if layout == "facebook":
        state = facebook(state)
        assert "mask_token" in state and "blocks.1.attn.qkv.weight" in state
    ours = from_file(spec, state, tmp_path / f"w{suffix}")
    x = image(spec)
    assert error(ours(x), theirs(x).last_hidden_state.mean(1)) < PARITY


@pytest.mark.parametrize("size", [112, 280, 518])
def test_dinov2_at_another_size_equals_transformers(size: int, tmp_path: Path) -> None:
    spec = small_dinov2()
    theirs, state = transformers_dinov2(**SMALL)
    ours = from_file(spec, state, tmp_path / "w.pth", size=size)
    x = image(spec, size=size)
    assert error(ours(x), theirs(x, interpolate_pos_encoding=True).last_hidden_state.mean(1)) < PARITY


def test_dinov2_at_full_size_equals_transformers(tmp_path: Path) -> None:
    spec = models.get("dinov2")
    theirs, state = transformers_dinov2(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    ours = from_file(spec, renamed(state, IN_FILES), tmp_path / "model.safetensors")
    x = image(spec)
    expected = theirs(x).last_hidden_state.mean(1)
    assert error(ours(x), expected) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=False)(x), expected) < PARITY


# SigLIP


@pytest.fixture(scope="module")
def siglip_tower() -> Any:
    from open_clip.timm_model import TimmModel

    small_siglip()
    tower = TimmModel("vit_test_siglip", embed_dim=1152, image_size=384, pool="map", proj="none").eval()
    tower.load_state_dict(shaken(tower.state_dict()))
    return tower


@pytest.mark.parametrize("layout", ["open_clip", "timm"])
def test_siglip_equals_open_clip(siglip_tower: Any, layout: str, tmp_path: Path) -> None:
    spec = small_siglip()
    if layout == "open_clip":
        state = {f"visual.{key}": tensor for key, tensor in siglip_tower.state_dict().items()}
        state |= {
            "text.token_embedding.weight": torch.ones(3),
            "logit_scale": torch.ones(1),
            "logit_bias": torch.ones(1),
        }
    else:
        state = siglip_tower.trunk.state_dict()
    ours = from_file(spec, state, tmp_path / "w.safetensors")
    x = image(spec)
    expected = siglip_tower(x)
    assert expected.shape == (2, spec.dim)
    assert error(ours(x), expected) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=False)(x), expected) < PARITY
    assert any(isinstance(module, LatentPool) for module in ours.modules())


@pytest.mark.parametrize("grid", [8, 30])
def test_siglip_positions_at_another_size_equal_transformers(siglip_tower: Any, grid: int) -> None:
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

    native = siglip_tower.trunk.pos_embed
    theirs = SiglipVisionEmbeddings(SiglipVisionConfig(hidden_size=1152, image_size=384, patch_size=14))
    theirs.position_embedding.weight.copy_(native[0])
    expected = theirs.interpolate_pos_encoding(torch.empty(1, grid**2, 1152), 14 * grid, 14 * grid)
    found = resampled_positions({"pos_embed": native}, grid, prefix=0)["pos_embed"]
    assert error(found[0], expected[0]) < PARITY


# Position embeddings


def test_positions_keep_their_class_token_and_their_constants() -> None:
    state = {"pos_embed": torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 37 * 37, 4), 3.0)], dim=1)}
    found = resampled_positions(state, 16, prefix=1)["pos_embed"]
    assert found.shape == (1, 257, 4) and bool((found[:, 0] == 7).all())
    assert torch.allclose(found[:, 1:], torch.tensor(3.0))


@pytest.mark.parametrize("positions", [torch.ones(1, 12, 4), torch.ones(5), torch.ones(1, 1, 4), torch.ones(1, 10, 4)])
def test_positions_that_need_no_resampling_or_allow_none_are_left_alone(positions: torch.Tensor) -> None:
    assert resampled_positions({"pos_embed": positions}, 3, prefix=1)["pos_embed"] is positions
    assert resampled_positions({}, 3, prefix=1) == {}


# Random convolutions


@pytest.mark.parametrize("source", ["S2L1C", "S2L2A", "S1RTC"])
@pytest.mark.parametrize("size", [224, 61])
def test_rcf_equals_torchgeo(source: Any, size: int) -> None:
    from torchgeo.models import RCF

    spec = models.get("rcf")
    channels = len(spec.bands[source])
    theirs = RCF(in_channels=channels, features=512, kernel_size=3, bias=BIAS, seed=1).eval()
    theirs.weights = torch.from_numpy(filters(channels, 4))
    ours = spec.build(resolve(spec, "random:4"), source=source, size=size)
    x = image(spec, size=size, source=source) * 0.4
    assert error(ours(x), theirs(x)) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=True)(x), theirs(x)) < PARITY


def test_rcf_equals_the_golden_file() -> None:
    golden = json.loads(Path(__file__).with_name("rcf.json").read_text())
    spec = models.get("rcf")
    drawn = filters(golden["channels"], golden["seed"])
    assert drawn.dtype == np.float32 and drawn.reshape(-1)[:8].tolist() == golden["first_filters"]
    shape = (1, golden["channels"], golden["size"], golden["size"])
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(golden["image_seed"])).random(shape).astype(np.float32))
    found = spec.build(resolve(spec, None), size=golden["size"])(x)
    assert error(found, torch.tensor([golden["features"]])) < PARITY
