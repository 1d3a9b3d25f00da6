"""Models from outside: networks of timm and open_clip by a card, and models of other packages by entry points."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mtembed import embed, models
from mtembed.errors import UsageError, WeightsError
from mtembed.models.custom import Renamed
from mtembed.models.weights import resolve
from tests.models.parity.small_networks import PARITY, error, image
from tests.tools.chips import CHIPS, chip, chip_shard
from tests.tools.commands import ROOT
from tests.tools.shards import make_shard

GOLDEN = "efficientnet_lite0_terramind_s2rgb.npz"
FILE = "efficientnet-lite0-57934424.pth"
BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # in each stage
LITE = """
title = "EfficientNet-Lite0, ImageNet"
licence = "Apache-2.0"
citation = "Tan and Le, EfficientNet, 2019"
size = 224
patch = 32
file = "efficientnet-lite0-57934424.pth"
page = "https://example.org/efficientnet"
drop = ["_fc.*"]
rename = [
{blocks}
    ['blocks\\.0\\.0\\._depthwise_conv', 'blocks.0.0.conv_dw'],
    ['blocks\\.0\\.0\\._bn1', 'blocks.0.0.bn1'],
    ['blocks\\.0\\.0\\._project_conv', 'blocks.0.0.conv_pw'],
    ['blocks\\.0\\.0\\._bn2', 'blocks.0.0.bn2'],
    ['_bn2', 'bn3'],
    ['\\._bn1', '.bn2'],
    ['\\._bn0', '.bn1'],
    ['_expand_conv', 'conv_pw'],
    ['_depthwise_conv', 'conv_dw'],
    ['_project_conv', 'conv_pwl'],
    ['^_conv_stem', 'conv_stem'],
    ['^_bn0', 'bn1'],
    ['^_conv_head', 'conv_head'],
    ['^_bn1', 'bn2'],
]
[sources.S2L2A]  # digital numbers 0 to 255, as a picture's
bands = ["B04", "B03", "B02"]
rule = "standard"
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
"""
SMALL = """
network = "timm:resnet18"
size = 32
patch = 1
pooling = "mean"
[sources.S1RTC]
bands = ["vh", "vv"]
rule = "decibel-standard"
mean = [-20, -12]
std = [5, 5]
"""


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def lite(folder: Path) -> Path:
    places = [(stage, block) for stage, count in enumerate(BLOCKS) for block in range(count)]
    lines = "\n".join(f"    ['^_blocks\\.{i}\\.', 'blocks.{s}.{b}.']," for i, (s, b) in enumerate(places))
    path = folder / "lite.toml"
    path.write_text(LITE.replace("{blocks}", lines))
    return path


def card(folder: Path, text: str = SMALL, name: str = "small.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# timm, with real weights


def test_real_weights_give_the_golden_vectors_through_the_whole_pipeline(shared: Path, tmp_path: Path) -> None:
    names = sorted(CHIPS)
    pictures = {name: chip(shared, "S2RGB", name).astype(np.uint16) for name in names}
    cells = {name: dict(zip(("B04", "B03", "B02"), picture, strict=True)) for name, picture in pictures.items()}
    others = ("B01", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    cells = {name: {**bands, **dict.fromkeys(others, bands["B02"][:1, :1])} for name, bands in cells.items()}
    shard = chip_shard(tmp_path / "images" / "part_00001.parquet", cells)
    weights = shared / "weights" / "efficientnet_lite0" / FILE
    out = tmp_path / "out"
    command = ["--model", "timm:tf_efficientnet_lite0", "--model-card", str(lite(tmp_path)), "--weights", str(weights)]
    more = ["--device", "cpu", "--precision", "fp32", "--workers", "1", "--output", str(out), str(shard)]
    done = subprocess.run([sys.executable, "-m", "mtembed", *command, *more], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out / "embeddings" / "part_00001.parquet")
    with np.load(shared / "eval" / "golden" / GOLDEN) as golden:
        rows = [golden["cells"].tolist().index(name) for name in names]
        expected = golden["embedding"][rows]
    assert np.abs(np.stack(table["embedding"].to_numpy()) - expected).max() < 1e-4
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["name"] == manifest["settings"]["model"] == "tf_efficientnet_lite0"
    assert manifest["weights"]["licence"] == "Apache-2.0" and manifest["weights"]["published"] == FILE
    assert "EfficientNet-Lite0, ImageNet" in (out / "README.md").read_text()
    (tmp_path / "lite.toml").unlink()  # from here on the manifest says it all
    for words in (["verify", str(out), "--shards", str(shard)], ["report", str(out)]):
        again = subprocess.run([sys.executable, "-m", "mtembed", *words], capture_output=True, text=True, cwd=ROOT)
        assert again.returncode == 0, again.stdout + again.stderr


def test_check_says_whether_a_card_behaves(tmp_path: Path) -> None:
    words = ["models", "--check", str(card(tmp_path)), "--weights", "random:1"]
    done = subprocess.run([sys.executable, "-m", "mtembed", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "It behaves." in done.stdout, done.stderr


# Cards


def test_a_card_becomes_a_record(tmp_path: Path) -> None:
    spec = models.get(str(card(tmp_path)))
    assert (spec.name, spec.dim, spec.parameters) == ("small", 512, 11_173_376)
    assert spec.bands_for("S1RTC") == ("vh", "vv") and spec.normalisation_for("S1RTC").mean == (-20.0, -12.0)
    assert models.get("small", spec.card) == spec and pickle.loads(pickle.dumps(spec)) == spec
    assert models.origin(spec) == "card"
    with pytest.raises(UsageError, match=r"give --weights FILE, or random:SEED"):
        resolve(spec, None)


def test_a_file_of_the_user_called_timm_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise SystemExit('this is not timm')")
    monkeypatch.chdir(tmp_path)
    assert models.get(str(card(tmp_path))).dim == 512


@pytest.mark.parametrize("pooling", ["network", "mean", "class"])
def test_pooling_is_that_of_the_card(tmp_path: Path, pooling: str) -> None:
    import timm

    text = SMALL.replace("resnet18", "vit_tiny_patch16_224").replace("size = 32", "size = 64").replace("patch = 1", "")
    text = text.replace('"mean"', f'"{pooling}"') + "[options]\nimg_size = 64\n"
    spec = models.get(str(card(tmp_path, text)))
    torch.manual_seed(5)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=2, img_size=64).eval()
    x = image(spec)
    tokens = theirs.forward_features(x)
    expected = {"network": theirs(x), "mean": tokens.mean(1), "class": tokens[:, 0]}[pooling]
    assert error(spec.build(resolve(spec, "random:5"))(x), expected) < PARITY


def test_a_tower_of_open_clip_equals_open_clip(tmp_path: Path) -> None:
    import open_clip

    text = SMALL.replace("timm:resnet18", "open_clip:ViT-S-32-alt").replace("size = 32", "size = 224")
    text = text.replace("S1RTC", "S2L2A").replace('["vh", "vv"]', '["B04", "B03", "B02"]')
    text = text.replace("decibel-standard", "rgb").replace("[-20, -12]", "[0, 0, 0]").replace("[5, 5]", "[1, 1, 1]")
    spec = models.get(str(card(tmp_path, text)))
    pair = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    torch.save(pair.state_dict(), tmp_path / "w.pt")
    x = image(spec)
    ours = spec.build(resolve(spec, str(tmp_path / "w.pt")))
    assert spec.text == "ViT-S-32-alt" and spec.dim == 256
    assert error(ours(x), pair.encode_image(x)) < PARITY


WRONG = {
    "network": ('"timm:resnet18"', '"keras:resnet18"', r"write timm:NAME or open_clip:NAME"),
    "no such network": ("resnet18", "resnet_18", r"no network of that name; did you mean resnet18"),
    "field": ("patch = 1", "pitch = 1", r"small\.toml is not possible: .*unknown field `pitch`"),
    "type": ("size = 32", 'size = "32"', r"Expected `int`, got `str` - at `\$\.size`"),
    "source": ("S1RTC", "S3", r"S3"),
    "band": ('"vh"', '"hh"', r"must be some of vv vh, each once, not hh"),
    "band twice": ('"vh"', '"vv"', r"each once"),
    "mean": ("[-20, -12]", "[-20]", r"decibel-standard of S1RTC needs 2 values of mean"),
    "std": ("[5, 5]", "[5, 0]", r"std finite and above 0"),
    "option": ("size = 32", "size = 32\noptions = {depth = 3}", r"cannot be built"),
    "name": ("size = 32", 'size = 32\nname = "../up"', r"name is '\.\./up'"),
    "taken name": ("size = 32", 'size = 32\nname = "rcf"', r"'rcf' is that of another model"),
    "rename": ("size = 32", "size = 32\nrename = [['(', 'x']]", r"no regular expression"),
    "syntax": ("size = 32", "size =", r"cannot be read .*give a TOML file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_card_that_cannot_be_is_one_sentence(tmp_path: Path, what: str) -> None:
    old, new, match = WRONG[what]
    with pytest.raises(UsageError, match=match):
        models.get(str(card(tmp_path, SMALL.replace(old, new))))


def test_a_network_without_a_card_or_a_card_too_many_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"timm:resnet18 needs bands.*--model-card"):
        models.get("timm:resnet18")
    with pytest.raises(UsageError, match=r"rcf is a model with a record of its own"):
        models.get("rcf", str(card(tmp_path)))
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        models.get(str(tmp_path / "none.toml"))


def test_another_size_must_fit_the_card(tmp_path: Path) -> None:
    models.get(str(card(tmp_path))).require_size(64)
    fixed = models.get(str(card(tmp_path, SMALL.replace("patch = 1", ""))))
    with pytest.raises(UsageError, match=r"--fragment-size must be 32\."):
        fixed.require_size(64)


def test_renaming_two_keys_into_one_is_an_error(tmp_path: Path) -> None:
    state = {"a.w": torch.ones(1), "b.w": torch.ones(1)}
    assert list(Renamed((("^a", "c"), ("c", "d")))(state)) == ["d.w", "b.w"]
    spec = models.get(str(card(tmp_path, SMALL.replace("size = 32", "size = 32\nrename = [['^a', 'b']]"))))
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"rename turns two keys into b\.w"):
        spec.build(resolve(spec, str(tmp_path / "w.pt")))


def test_a_run_is_held_to_its_card(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "images" / "part_00001.parquet", 1, "S1RTC", side=48)
    options: dict[str, Any] = {"weights": "random:1", "output": str(tmp_path / "out"), "device": "cpu", "workers": 1}
    path = card(tmp_path)
    assert embed(shard.path, model=str(path), **options).exit_code == 0
    assert embed(shard.path, model=str(path), **options).new_cells == 0
    card(tmp_path, SMALL.replace("[-20, -12]", "[-21, -12]"))
    with pytest.raises(Exception, match=r"made with other settings \(model-card"):
        embed(shard.path, model=str(path), **options)


# Other packages

PLUGIN = """
from dataclasses import replace
from mtembed import models
from mtembed.models.base import REFLECTANCE

def load(spec, source, weights, size):
    import torch
    from mtembed.models.networks import Embedder

    class Brightness(Embedder):
        def __init__(self):
            super().__init__(torch.nn.Identity())

        def to_trunk(self, x):
            return x

        def forward(self, x):
            return x.float().mean((2, 3))

    return Brightness()

SPECS = (
    replace(models.get("bands-l1c"), name="brightness", title="Mean of each band", dim=13, loader=load),
)
"""


def plugin(folder: Path, name: str = "brightly", text: str = PLUGIN) -> Path:
    """A package as pip leaves it: a module, and the folder that names its entry points."""
    (folder / f"{name}.py").write_text(text)
    facts = folder / f"{name}-1.2.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(f"[mtembed.models]\n{name} = {name}\n")
    return folder


def mtembed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    return subprocess.run([sys.executable, "-m", "mtembed", *words], capture_output=True, text=True, env=environment)


def test_a_model_of_another_package_runs_like_any_other(tmp_path: Path) -> None:
    site = plugin(tmp_path)
    shard = make_shard(tmp_path / "images" / "part_00001.parquet", 2, side=48)
    listed = json.loads(mtembed(site, "models", "--json").stdout.splitlines()[-1])
    assert (listed["name"], listed["from"]) == ("brightness", "brightly 1.2")
    out = tmp_path / "out"
    options = ("--fragment-size", "48", "--device", "cpu", "--output", str(out))
    done = mtembed(site, "--model", "brightness", *options, str(shard.path))
    assert done.returncode == 0, done.stderr
    vectors = np.stack(pq.read_table(out / "embeddings" / "part_00001.parquet")["embedding"].to_numpy())
    assert vectors.shape == (2, 13) and (vectors > 0.05).all()
    assert json.loads((out / "manifest.json").read_text())["versions"]["brightly"] == "1.2"
    assert mtembed(site, "verify", str(out)).returncode == 0


def test_a_package_that_cannot_be_imported_costs_its_models_alone(tmp_path: Path) -> None:
    site = plugin(plugin(tmp_path), "broken", "raise RuntimeError('no licence file')")
    done = mtembed(site, "models", "--json")
    assert done.returncode == 0 and "brightness" in done.stdout
    assert "the models of broken 1.2 cannot be used (RuntimeError: no licence file)" in done.stderr
    assert "choose one of" in mtembed(site, "models", "--check", "absent").stderr
