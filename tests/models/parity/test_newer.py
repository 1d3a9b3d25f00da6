"""TerraMind, DINOv3, SigLIP 2 and SoftCon in the layouts of their published files, against other constructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from mtembed import models
from mtembed.errors import UsageError, WeightsError
from mtembed.models.networks import optimise
from mtembed.types import Weights
from tests.models.parity.small_networks import PARITY, State, error, from_file, image, shaken

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


# TerraMind

DEPTH, PATCH, GRID = 12, 16, 14
INPUTS = {"S2L2A": ("sen2l2a", 12), "S2L1C": ("sen2l1c", 13), "S1RTC": ("sen1rtc", 2)}


def terramind_file(dim: int, gated: bool) -> State:
    """A whole model under terratorch's names, all random."""
    generator = torch.Generator().manual_seed(dim)
    state: State = {}

    def linear(key: str, rows: int, cols: int, bias: bool) -> None:
        state[f"{key}.weight"] = torch.randn(rows, cols, generator=generator) / cols**0.5
        if bias:
            state[f"{key}.bias"] = 0.3 * torch.randn(rows, generator=generator)

    def norm(key: str) -> None:
        state[f"{key}.weight"] = 1 + 0.2 * torch.randn(dim, generator=generator)
        state[f"{key}.bias"] = torch.zeros(dim)

    for name, channels in INPUTS.values():
        key = f"encoder_embeddings.untok_{name}@224"
        linear(f"{key}.proj", dim, channels * PATCH**2, bias=False)
        state[f"{key}.mod_emb"] = torch.randn(1, 1, dim, generator=generator)
        state[f"{key}.pos_emb"] = torch.randn(1, GRID**2, dim, generator=generator)
    hidden = 4 * dim * 2 // 3 if gated else 4 * dim
    for block in (f"encoder.{i}" for i in range(DEPTH)):
        norm(f"{block}.norm1")
        norm(f"{block}.norm2")
        linear(f"{block}.attn.qkv", 3 * dim, dim, bias=not gated)
        linear(f"{block}.attn.proj", dim, dim, bias=not gated)
        for name in ("fc1", "fc3") if gated else ("fc1",):
            linear(f"{block}.mlp.{name}", hidden, dim, bias=not gated)
        linear(f"{block}.mlp.fc2", dim, hidden, bias=not gated)
    norm("encoder_norm")
    return state | {"decoder.0.norm1.weight": torch.ones(3), "mask_token": torch.ones(3)}


def terramind(state: State, source: str, heads: int, x: torch.Tensor) -> torch.Tensor:
    """The mean of TerraMind's tokens, straight from the file's tensors: [n, D]."""

    def linear(key: str, y: torch.Tensor) -> torch.Tensor:
        return functional.linear(y, state[f"{key}.weight"], state.get(f"{key}.bias"))

    def norm(key: str, y: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(y, y.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-6)

    embedding = f"encoder_embeddings.untok_{INPUTS[source][0]}@224"
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 4, 5, 1).reshape(len(x), GRID**2, -1)
    y = linear(f"{embedding}.proj", patches) + state[f"{embedding}.pos_emb"] + state[f"{embedding}.mod_emb"]
    for block in (f"encoder.{i}" for i in range(DEPTH)):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", y)).unflatten(2, (3, heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        y = y + linear(f"{block}.attn.proj", (attention @ value).transpose(1, 2).flatten(2))
        inner = norm(f"{block}.norm2", y)
        if f"{block}.mlp.fc3.weight" in state:
            hidden = functional.silu(linear(f"{block}.mlp.fc1", inner)) * linear(f"{block}.mlp.fc3", inner)
        else:
            hidden = functional.gelu(linear(f"{block}.mlp.fc1", inner))
        y = y + linear(f"{block}.mlp.fc2", hidden)
    return norm("encoder_norm", y).mean(1)


@pytest.mark.parametrize(
    ("name", "source", "heads"),
    [("small", "S2L2A", 6), ("small", "S2L1C", 6), ("small", "S1RTC", 6), ("base", "S2L2A", 12)],
)
def test_terramind_equals_the_plain_formulas(name: str, source: Any, heads: int, tmp_path: Path) -> None:
    spec = models.get(f"terramind-{name}")
    state = terramind_file(spec.dim, gated=name == "base")
    ours = from_file(spec, state, tmp_path / "w.pt", source=source)
    x = image(spec, source=source)
    expected = terramind(state, source, heads, x)
    assert error(ours(x), expected) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=True)(x), expected) < PARITY


def test_terramind_without_a_kind_of_input_or_at_another_size_is_refused(tmp_path: Path) -> None:
    spec = models.get("terramind-small")
    state = {key: value for key, value in terramind_file(384, gated=False).items() if "sen1rtc" not in key}
    with pytest.raises(WeightsError, match=r"untok_sen1rtc@224\.proj\.weight"):
        from_file(spec, state, tmp_path / "w.pt", source="S1RTC")
    with pytest.raises(UsageError, match=r"cannot take fragments of 256 px; --fragment-size must be 224\."):
        spec.require_size(256)


# DINOv3


@pytest.mark.parametrize("size", [112, 224])
def test_dinov3_equals_timm(size: int, tmp_path: Path) -> None:
    """timm offers the weights; a little network of the same kind, made with memory from the start."""
    import timm

    def little(pretrained: bool = False, **more: Any) -> Any:
        options = {"patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 2}
        return timm.models.eva.vit_large_patch16_dinov3(pretrained=pretrained, **{**options, **more})

    little.__name__ = "vit_test_dinov3"
    little.__module__ = "timm.models.eva"
    if not timm.is_model("vit_test_dinov3"):
        timm.models.register_model(little)
    spec = replace(models.get("dinov3-sat"), architecture="vit_test_dinov3", dim=128)
    theirs = timm.create_model("vit_test_dinov3", num_classes=0, img_size=size).eval()
    state = shaken(theirs.state_dict())
    theirs.load_state_dict(state)
    ours: Any = from_file(spec, state, tmp_path / "model.safetensors", size=size)
    assert not any(table.is_meta for table in ours.buffers())
    x = image(spec, size=size)
    assert error(ours(x), theirs(x)) < PARITY
    assert error(optimise(ours, torch.float32, channels_last=False)(x), theirs(x)) < PARITY


def test_the_number_of_parameters_of_dinov3_is_timms() -> None:
    import timm

    spec = models.get("dinov3-sat")
    with torch.device("meta"):
        network = timm.create_model(spec.architecture, num_classes=0)
    assert sum(tensor.numel() for tensor in network.parameters()) == spec.parameters
    assert network.num_features == spec.dim and network.global_pool == "avg"


# SigLIP 2


@pytest.mark.parametrize("layout", ["open_clip", "timm"])
def test_siglip2_equals_open_clip(layout: str, tmp_path: Path) -> None:
    import open_clip
    from open_clip.timm_model import TimmModel

    spec = models.get("siglip2-base")
    vision = open_clip.get_model_config(spec.text)["vision_cfg"]
    assert (vision["timm_model_name"], vision["image_size"]) == (spec.architecture, spec.size)
    tower = TimmModel(spec.architecture, embed_dim=768, image_size=224, pool="map", proj="none").eval()
    state = shaken(tower.state_dict())
    tower.load_state_dict(state)
    if layout == "open_clip":
        state = {f"visual.{key}": value for key, value in state.items()} | {"logit_scale": torch.ones(1)}
    else:
        state = tower.trunk.state_dict()
    x = image(spec)
    assert error(from_file(spec, state, tmp_path / "w.safetensors")(x), tower(x)) < PARITY


def test_the_pairs_of_siglip2_are_known_to_open_clip() -> None:
    import open_clip

    spec = models.get("siglip2-so400m")
    config = open_clip.get_model_config(spec.text)
    assert config["vision_cfg"]["timm_model_name"] == spec.architecture
    assert (config["vision_cfg"]["image_size"], config["embed_dim"]) == (spec.size, spec.dim)


# SoftCon


@pytest.mark.parametrize("name", ["softcon-s1", "softcon-s2"])
def test_softcon_equals_torchgeo(name: str, tmp_path: Path) -> None:
    from torchgeo.models import vit_base_patch14_dinov2

    spec = models.get(name)
    channels = len(spec.bands[spec.source])
    theirs = vit_base_patch14_dinov2(weights=None, in_chans=channels, num_classes=0, img_size=224).eval()
    state = shaken(theirs.state_dict())
    theirs.load_state_dict(state)
    ours = from_file(spec, {**state, "mask_token": torch.ones(3)}, tmp_path / "w.pth")
    x = image(spec)
    assert error(ours(x), theirs(x)) < PARITY


@pytest.mark.parametrize("name", ["softcon-rn50-s1", "softcon-rn50-s2"])
def test_the_resnets_of_softcon_equal_torchgeo(name: str, tmp_path: Path) -> None:
    from torchgeo.models import resnet50

    spec = models.get(name)
    theirs = resnet50(weights=None, in_chans=len(spec.bands[spec.source]), num_classes=0).eval()
    state = shaken(theirs.state_dict())
    theirs.load_state_dict(state, strict=False)
    x = image(spec)
    assert error(from_file(spec, state, tmp_path / "w.pth")(x), theirs(x)) < PARITY


@pytest.mark.parametrize("name", ["softcon-s2", "softcon-rn50-s1"])
def test_the_statistics_of_softcon_are_those_of_torchgeos_transforms(name: str) -> None:
    import torchgeo.models

    spec = models.get(name)
    assert spec.published
    enum, member = spec.published.entry.split(".")
    transform = getattr(torchgeo.models, enum)[member].transforms[-1]
    rule = spec.normalisation_for(spec.source)
    assert (tuple(transform.mean), tuple(transform.std)) == (rule.mean, rule.std)


def test_weights_of_another_sensor_are_refused(tmp_path: Path) -> None:
    spec = models.get("softcon-rn50-s2")
    torch.save({"conv1.weight": torch.ones(64, 2, 7, 7)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"conv1\.weight 64x2x7x7 instead of 64x13x7x7"):
        spec.build(Weights("w.pth", "", tmp_path / "w.pth", None))


# OlmoEarth


@pytest.mark.parametrize("source", ["S2L2A", "S1RTC"])
def test_olmoearth_equals_its_own_package(source: Any, tmp_path: Path) -> None:
    package = pytest.importorskip("olmoearth_pretrain_minimal", reason="the extra olmoearth is not installed")
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import PoolingType
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

    spec, kind = models.get("olmoearth-nano"), {"S2L2A": "sentinel2_l2a", "S1RTC": "sentinel1"}[source]
    whole = package.OlmoEarthPretrain_v1("nano", "v1.1").eval()  # with all kinds of input that the published one has
    state = shaken(whole.model.state_dict())
    whole.model.load_state_dict(state)
    ours = from_file(spec, state, tmp_path / "weights.pth", source=source, size=64)
    x = image(spec, size=64, source=source)
    pixels = x.permute(0, 2, 3, 1)[:, :, :, None]
    dates = torch.tensor([[[1, 5, 2019]]] * len(x))
    given = {kind: pixels, f"{kind}_mask": torch.zeros(*pixels.shape[:4], pixels.shape[4])[..., :1]}
    sample = MaskedOlmoEarthSample(timestamps=dates, **given)
    tokens = whole.model.encoder(sample, patch_size=8)["tokens_and_masks"]
    assert error(ours(x), tokens.pool_unmasked_tokens(PoolingType.MEAN)) < PARITY


def test_the_statistics_of_olmoearth_are_those_of_its_package() -> None:
    package = pytest.importorskip("olmoearth_pretrain_minimal", reason="the extra olmoearth is not installed")
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality

    spec = models.get("olmoearth-base")
    for source, kind in (("S2L2A", Modality.SENTINEL2_L2A), ("S1RTC", Modality.SENTINEL1)):
        rule: Any = spec.normalisations[source]  # type: ignore[index]
        pixels = torch.rand(1, 4, 4, 1, len(rule.mean)).numpy().astype("float64") * 5000
        found = package.Normalizer(std_multiplier=2.0).normalize(kind, pixels.copy())
        assert found == pytest.approx((pixels - rule.mean) / rule.std, rel=1e-6)
        assert [band.upper() for band in spec.bands_for(source)] == [band.upper() for band in kind.band_order]


def test_a_package_that_is_missing_is_named() -> None:
    spec = replace(models.get("olmoearth-nano"), package="not-there")
    with pytest.raises(UsageError, match=r"needs a package that is not installed: pip install not-there\."):
        spec.build(Weights("random:1", "", None, 1))
