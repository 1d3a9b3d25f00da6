"""Models: their records, their seeds, and what holds for every network (parity/ compares them with the libraries)."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtembed import models
from mtembed.errors import UsageError
from mtembed.models.base import ModelSpec
from mtembed.models.check import check
from mtembed.models.networks import fill, optimise
from mtembed.models.rcf import BIAS, filters
from mtembed.models.weights import PACKAGED, file_sha256, resolve
from mtembed.types import Weights
from tests.models.parity.small_networks import PARITY, error, image, shaken, small_dinov2, small_siglip

# torchgeo, transformers and what they import warn about their own dependencies and about coming changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning"),
]

ALL = (
    "bands-l1c", "bands-l2a", "bands-s1", "decur-s1", "decur-s2", "dinov2", "dinov3-sat", "galileo-nano", "mmearth",
    "olmoearth-base", "olmoearth-nano",
    "rcf", "siglip", "siglip2-base", "siglip2-so400m", "softcon-rn50-s1", "softcon-rn50-s2", "softcon-s1", "softcon-s2",
    "ssl4eo-s1", "ssl4eo-s2", "terramind-base", "terramind-small",
)  # fmt: skip
HEAVY = ("dinov3-sat", "olmoearth-base", "siglip2-base", "siglip2-so400m", "softcon-s1", "softcon-s2", "terramind-base")
LIGHT = tuple(name for name in ALL if name not in HEAVY)  # those, or little ones of their kind, that tests can run
TRANSFORMERS = ("dinov2", "siglip", "galileo-nano", "terramind-small")
BUILT = (
    "galileo-nano",
    "mmearth",
    "olmoearth-nano",
    "terramind-base",
    "terramind-small",
    "softcon-s1",
    "softcon-s2",
    "siglip2-base",
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


# Records


def test_the_registry_is_plain_data() -> None:
    code = "import sys; import mtembed.models as m; m.names(); print(sorted(x for x in sys.modules if '.' not in x))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"torch", "timm", "torchgeo", "open_clip", "safetensors", "pyarrow"} & set(re.findall(r"\w+", loaded))


def test_the_models_of_the_contract_are_known() -> None:
    assert sorted(models.names()) == sorted(ALL)


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no model 'resnet'; choose one of") as caught:
        models.get("resnet")
    assert all(name in str(caught.value) for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_record_agrees_with_itself(name: str) -> None:
    spec = models.get(name)
    assert spec.source in spec.bands and spec.bands.keys() == spec.normalisations.keys()
    for source, bands in spec.bands.items():
        rule = spec.normalisation_for(source)
        assert spec.bands_for(source) == bands and len(set(bands)) == len(bands)
        assert len(rule.mean) == len(rule.std) == (0 if rule.rule == "reflectance" else len(bands))
    assert spec.recommends(spec.source) and spec.licence and spec.citation
    spec.require_size(spec.size)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_source_that_lacks_a_band_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"ssl4eo-s2 needs the bands B01 .* B10 .*, which S2L2A does not have; use S2L1C"
    ):
        models.get("ssl4eo-s2").bands_for("S2L2A")
    with pytest.raises(UsageError, match="dinov2"):
        models.get("dinov2").normalisation_for("S1RTC")
    with pytest.raises(UsageError, match="siglip"):
        models.get("siglip").build(Weights("random:1", "", None, 1), source="S1RTC")


def test_another_source_with_the_bands_runs_but_is_not_recommended() -> None:
    assert models.get("dinov2").bands_for("S2L1C") == ("B04", "B03", "B02")
    assert not models.get("dinov2").recommends("S2L1C")
    assert all(models.get("rcf").recommends(source) for source in models.get("rcf").bands)


def test_sizes_that_fit_the_network() -> None:
    for name, size in (("dinov2", 280), ("siglip", 378), ("siglip", 384), ("ssl4eo-s1", 97), ("rcf", 3)):
        models.get(name).require_size(size)
    for name, size in (("dinov2", 256), ("dinov2", 0), ("siglip", 256), ("ssl4eo-s2", 31), ("rcf", 2)):
        with pytest.raises(UsageError, match=f"{name} cannot take fragments of {size} px; --fragment-size must be"):
            models.get(name).require_size(size)


def test_published_names_are_those_of_the_libraries() -> None:
    import timm
    import torchgeo.models

    for published in filter(None, (models.get(name).published for name in ALL)):
        if published.library in ("hub", "url"):
            assert published.page.startswith("https://") and (published.library == "hub") == (not published.entry)
        elif published.library == "packaged":
            file = PACKAGED / published.entry
            assert file.name == published.file and file_sha256(file) == published.sha256
            assert (file.parent / "LICENSE").read_text().startswith("MIT License")
        elif published.library == "torchgeo":
            enum, member = published.entry.split(".")
            url = getattr(torchgeo.models, enum)[member].url
            assert url.endswith(f"/{published.file}") and f"/{published.repository}/" in url
        else:
            config = timm.models.get_pretrained_cfg(published.entry)
            assert config is not None and config.hf_hub_id == published.repository


@pytest.mark.parametrize("name", BUILT)
def test_the_number_of_parameters_is_that_of_the_network_built(name: str) -> None:
    spec = models.get(name)
    network = spec.build(resolve(spec, "random:1"))
    assert sum(tensor.numel() for tensor in network.parameters()) == spec.parameters
    with torch.device("meta"):
        vectors = network.to("meta")(torch.zeros(1, len(spec.bands[spec.source]), spec.size, spec.size))
    assert vectors.shape == (1, spec.dim)


@pytest.mark.parametrize("name", ["ssl4eo-s2", "ssl4eo-s1", "siglip", "dinov2"])
def test_the_number_of_parameters_is_the_networks(name: str) -> None:
    import timm

    spec = models.get(name)
    options = {"img_size": spec.size} if name in TRANSFORMERS else {"in_chans": len(spec.bands[spec.source])}
    with torch.device("meta"):
        network = timm.create_model(spec.architecture, num_classes=0, **options)
    assert sum(tensor.numel() for tensor in network.parameters()) == spec.parameters
    assert network.num_features == spec.dim


# Seeds


@pytest.mark.parametrize("name", ["ssl4eo-s1", "dinov2"])
def test_a_seed_gives_what_timm_gives(name: str) -> None:
    """The recipe in the module docstring of ``mtembed.models.weights``, on its own."""
    import timm

    spec = small_dinov2() if name == "dinov2" else models.get(name)
    options = {} if name == "dinov2" else {"in_chans": 2, "zero_init_last": False}
    torch.manual_seed(9)
    theirs = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **options).eval()
    x = image(spec, size=518 if name == "dinov2" else 96)
    features = theirs.forward_features(x)
    expected = features.mean(1) if name == "dinov2" else features.mean((2, 3))
    before = torch.random.get_rng_state()
    ours = spec.build(resolve(spec, "random:9"), size=x.shape[-1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert error(ours(x), expected) < PARITY
    other = spec.build(resolve(spec, "random:10"), size=x.shape[-1])
    assert error(other(x), expected) > 0.01


# All networks, at a little size

LITTLE = 112


def small(name: str) -> ModelSpec:
    return {"dinov2": small_dinov2, "siglip": small_siglip}.get(name, lambda: models.get(name))()


def built(name: str) -> tuple[ModelSpec, Any]:
    """Return a record of 112 px, where that fits, and its network, every tensor shaken (but for the filters of rcf)."""
    spec = small(name)
    spec = replace(spec, size=LITTLE) if spec.patch else spec
    network: Any = spec.build(Weights("random:1", "", None, 1))
    if spec.trained:
        fill(network, shaken(network.state_dict()), "test")
    return spec, network


@pytest.mark.parametrize("name", LIGHT)
def test_a_network_is_in_eval_mode_frozen_and_float32(name: str) -> None:
    spec, network = built(name)
    assert not any(module.training for module in network.modules())
    assert not any(tensor.requires_grad for tensor in network.parameters())
    x = image(spec)
    first = network(x)
    assert first.dtype == torch.float32 and first.shape == (2, spec.dim)
    assert torch.equal(first, network(x))


@pytest.mark.parametrize("name", LIGHT)
def test_a_fragment_does_not_feel_its_batch_mates(name: str) -> None:
    spec, network = built(name)
    optimise(network, torch.float32, channels_last=name not in TRANSFORMERS)
    x = image(spec, n=3)
    other = x.clone()
    other[1:] = 1 - x[1:] ** 2
    assert torch.equal(network(x)[0], network(other)[0])
    assert error(network(x[:1]), network(x)[:1]) < PARITY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LIGHT)
def test_in_16_bit_the_tail_and_the_output_stay_float32(name: str, dtype: torch.dtype) -> None:
    spec, network = built(name)
    x = image(spec)
    expected = network(x)
    optimise(network, dtype, channels_last=True)
    tail = [value for key, value in network.state_dict().items() if not key.startswith("trunk.")]
    assert all(value.dtype == torch.float32 for value in tail) and bool(tail) == (name in TRANSFORMERS)
    assert all(value.dtype == dtype for value in network.trunk.parameters())
    found = network(x.to(dtype))
    assert found.dtype == torch.float32 and bool(found.isfinite().all())
    assert error(found, expected) < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_optimise_takes_only_networks_of_this_package() -> None:
    with pytest.raises(TypeError, match="Embedder"):
        optimise(torch.nn.Linear(1, 1), torch.float32, channels_last=False)


def test_band_statistics_are_those_of_numpy() -> None:
    spec = models.get("bands-s1")
    x = image(spec, n=3, size=40)
    pixels = x.double().numpy()
    expected = np.concatenate([pixels.mean((2, 3)), pixels.std((2, 3))], axis=1)
    assert error(spec.build(Weights("", "", None, None))(x), torch.from_numpy(expected)) < PARITY


# Check


@pytest.mark.parametrize("name", ["rcf", "dinov2"])
def test_check_embeds_constant_images(name: str) -> None:
    spec = small(name)
    found = check(spec, resolve(spec, "random:2"))
    assert [row.image for row in found][:3] == ["black", "grey", "white"]
    assert all(row.finite and row.norm > 0 and len(row.values) == 4 for row in found)
    assert len({(*row.values, row.norm) for row in found}) == len(found)
    if name == "rcf":
        drawn = filters(13, 2).astype(np.float64).sum((1, 2, 3))
        expected = [math.hypot(*(value * drawn + BIAS)) for value in (0, 0.5, 1)]
        assert [row.norm for row in found] == pytest.approx(expected, rel=1e-5)
        assert all(row.from_oracle is None for row in found)


def test_check_compares_with_the_oracle(tmp_path: Path) -> None:
    """A network whose white image gives the oracle is told from the one that was fed 1/255 of it."""
    spec = small_dinov2()
    white = next(row for row in check(spec, resolve(spec, "random:2")) if row.image == "white")
    told = {row.image: row.from_oracle for row in check(replace(spec, oracle=white.values), resolve(spec, "random:2"))}
    assert told["white"] == pytest.approx(0, abs=1e-5)
    assert told["white / 255"] is not None and told["white / 255"] > 0.01
