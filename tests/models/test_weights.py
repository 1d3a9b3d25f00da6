"""Weights: options, caches, files in every format and layout, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mtembed import models
from mtembed.errors import UsageError, WeightsError
from mtembed.models.base import KeyLayout
from mtembed.models.dinov2 import from_transformers
from mtembed.models.weights import read_state, require_fit, resolve
from mtembed.types import Weights

PLAIN = (KeyLayout("plain", dropped=("fc.*", "*mask_token")),)
OPEN_CLIP = models.get("siglip").layouts
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"conv1.weight": torch.randn(4, 2, 3, 3, generator=generator), "bn1.bias": torch.ones(4)}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


# Options


def test_a_file_is_named_without_its_folder_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    weights = resolve(models.get("dinov2"), str(path))
    assert weights == Weights("mine.pth", hashlib.sha256(b"weights").hexdigest(), path, None)


def test_a_seed_needs_no_file() -> None:
    assert resolve(models.get("siglip"), "random:007") == Weights("random:7", "", None, 7)


def test_rcf_draws_from_seed_1_unless_told_otherwise() -> None:
    assert resolve(models.get("rcf"), None) == Weights("random:1", "", None, 1)
    assert resolve(models.get("rcf"), "random:5").seed == 5


@pytest.mark.parametrize("option", ["random:", "random:x", "random:-1", "random:1.5", f"random:{2**63}", "random: 1"])
def test_a_bad_seed_is_a_usage_error(option: str) -> None:
    with pytest.raises(UsageError, match="random:SEED"):
        resolve(models.get("dinov2"), option)


def test_a_missing_file_or_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(UsageError, match="does not exist"):
            resolve(models.get("dinov2"), str(path))


def test_a_licence_that_is_not_open_is_shown_and_asked_for(tmp_path: Path) -> None:
    spec = models.get("dinov3-sat")
    with pytest.raises(UsageError, match=r"under the DINOv3 License, .*\(https://.*--accept-licence"):
        resolve(spec, None)
    assert resolve(spec, "random:1").seed == 1
    (tmp_path / "own.safetensors").write_bytes(b"mine")
    assert resolve(spec, str(tmp_path / "own.safetensors")).label == "own.safetensors"


def test_rcf_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file"):
        resolve(models.get("rcf"), str(tmp_path / "any.pth"))


# Published weights


def run(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter, so that caches and switches of libraries are those of ``environment``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TORCH_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


ATTEMPTS = """
from mtembed import models
from mtembed.errors import WeightsError
from mtembed.models.weights import resolve
for name in models.names():
    if models.get(name).trained:
        try:
            resolve(models.get(name), None, accepted=True)
        except WeightsError as error:
            print(error)
"""


def test_without_a_network_the_error_names_file_page_and_option(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    messages = run(
        ATTEMPTS,
        HF_HOME=str(tmp_path),
        HF_HUB_OFFLINE="1",
        TORCH_HOME=str(tmp_path),
        HTTPS_PROXY=nowhere,
        https_proxy=nowhere,
    ).splitlines()
    published = [spec for spec in map(models.get, models.names()) if spec.trained and spec.published]
    specs = [spec for spec in published if spec.published and spec.published.library != "packaged"]
    assert len(messages) == len(specs) < len(published)  # what ships with the package needs no network
    for spec, message in zip(specs, messages, strict=True):
        assert spec.published
        for part in (spec.name, spec.published.file, spec.published.page, "--weights FILE"):
            assert part in message
        assert message.count(". ") == 0


CACHED = """
import sys
from dataclasses import replace
from mtembed import models
from mtembed.models.weights import resolve
spec = models.get({name!r})
spec = replace(spec, published=replace(spec.published, file={file!r}))
print(resolve(spec, None).sha256)
print([name for name in ("torch", "timm", "torchgeo") if name in sys.modules])
"""


def hub_cache(home: Path, repository: str, blob: str, content: bytes) -> None:
    """Lay out a Hugging Face cache that holds one file."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/abc"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    (folder / "blobs" / blob).write_bytes(content)
    (folder / "snapshots/abc/model.safetensors").symlink_to(folder / "blobs" / blob)


def test_cached_weights_need_neither_network_nor_libraries(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    checkpoint = tmp_path / "hub" / "checkpoints" / f"resnet-{digest[:8]}.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    hub_cache(tmp_path, "timm/vit_base_patch14_dinov2.lvd142m", digest, b"weights")
    homes = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name, file in (("ssl4eo-s2", checkpoint.name), ("dinov2", "model.safetensors")):
        assert run(CACHED.format(name=name, file=file), **homes).split("\n")[:2] == [digest, "[]"]


def test_a_damaged_cached_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = models.get("ssl4eo-s2")
    assert spec.published
    checkpoint = tmp_path / "hub" / "checkpoints" / spec.published.file
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half a download")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="damaged; delete it"):
        resolve(spec, None)


def test_a_damaged_hub_blob_is_not_used(tmp_path: Path) -> None:
    hub_cache(tmp_path, "timm/vit_base_patch14_dinov2.lvd142m", "0" * 64, b"half a download")
    messages = run(ATTEMPTS.replace("models.names()", "['dinov2']"), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "damaged; delete it" in messages


# Files


@pytest.mark.parametrize("kind", ["zip", "legacy", "bin", "state_dict", "model", "safetensors"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, state: dict[str, torch.Tensor], kind: str) -> None:
    extra = {"fc.weight": torch.ones(2), "bn1.num_batches_tracked": torch.tensor(9)}
    path = tmp_path / {"bin": "w.bin", "safetensors": "w.safetensors"}.get(kind, "w.pth")
    full = {**state, **extra}
    if kind == "safetensors":
        save_file(full, path)
    elif kind in ("state_dict", "model"):
        torch.save({kind: full, "epoch": 3}, path)
    else:
        torch.save(full, path, _use_new_zipfile_serialization=kind != "legacy")
    assert same(read_state(path, PLAIN), state)


def test_weights_stored_in_16_bit_are_read_as_float32(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([0.5, 2.0], dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    found = read_state(tmp_path / "w.safetensors", PLAIN)["w"]
    assert found.dtype == torch.float32 and found.tolist() == [0.5, 2.0]


READ_AND_WEIGH = """
import resource, sys, torch
from pathlib import Path
from mtembed import models
from mtembed.models.weights import read_state
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
torch.ones(1).isfinite()
import safetensors
before = peak()
print({{key: value.tolist() for key, value in read_state(Path({path!r}), models.get("siglip").layouts).items()}})
print(peak() - before)
"""


def test_the_text_tower_of_an_open_clip_file_is_never_read(tmp_path: Path) -> None:
    """The text tensor is a hole of 4 GiB in the file: who reads it, in whatever way, grows by as much."""
    path, hole = tmp_path / "open_clip_model.safetensors", 2**32
    header = json.dumps(
        {
            "visual.trunk.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "logit_scale": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
            "text.token_embedding.weight": {"dtype": "F32", "shape": [hole // 4], "data_offsets": [12, 12 + hole]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + struct.pack("<fff", 1.5, 2.5, 3.5))
        file.truncate(8 + len(header) + 12 + hole)
    state, grown = run(READ_AND_WEIGH.format(path=str(path))).splitlines()
    assert state == "{'norm.weight': [1.5, 2.5]}"
    assert int(grown) < 2**28


def test_an_open_clip_pickle_loses_its_prefix_and_its_text_tower(tmp_path: Path) -> None:
    torch.save(
        {"visual.trunk.norm.weight": torch.ones(2), "text.x": torch.ones(1), "logit_bias": torch.ones(1)},
        tmp_path / "w.bin",
    )
    assert list(read_state(tmp_path / "w.bin", OPEN_CLIP)) == ["norm.weight"]


def test_a_key_outside_the_layout_is_named(tmp_path: Path) -> None:
    torch.save({"visual.trunk.norm.weight": torch.ones(2), "audio.x": torch.ones(1)}, tmp_path / "w.bin")
    with pytest.raises(WeightsError, match=r"w\.bin does not fit: unexpected 1 \(audio\.x\)"):
        read_state(tmp_path / "w.bin", OPEN_CLIP)


class Code:
    """Unpickles by running a command that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    if zipped:
        torch.save({"w": Code(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Code(trace)}))
    with pytest.raises(WeightsError, match=r"evil\.pth is not a readable file of plain tensors"):
        read_state(path, PLAIN)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_a_broken_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"broken{suffix} is not a readable file"):
        read_state(path, PLAIN)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WeightsError, match="not a readable file"):
        read_state(path, PLAIN)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((torch.ones(3), [1, 2], {"w": 3.0}, {"w": {"x": torch.ones(1)}})):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        with pytest.raises(WeightsError, match="plain tensors"):
            read_state(path, PLAIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, state: dict[str, torch.Tensor], value: float) -> None:
    state["bn1.bias"][2] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"not finite \(tensors 1 \(bn1\.bias\)\)"):
        read_state(tmp_path / "w.safetensors", PLAIN)


# Keys


def test_shapes_are_compared_before_values_are_read(tmp_path: Path) -> None:
    """A file of two kilobytes whose tensors claim terabytes is refused, and none of it is taken into memory."""
    huge = torch.zeros(1).expand(1 << 40)
    torch.save({"conv1.weight": huge, "bn1.weight": huge}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w.pth does not fit the network: .*conv1.weight 1099511627776 instead of"):
        models.get("ssl4eo-s1").build(Weights("w.pth", "", tmp_path / "w.pth", None))
    with pytest.raises(WeightsError, match=r"w.pth names more values than it holds"):
        read_state(tmp_path / "w.pth", PLAIN)
    names = [f"encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "key", "value")]
    torch.save({"embeddings.x": huge, **dict.fromkeys(names, huge)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit the network"):
        models.get("dinov2").build(Weights("w.pth", "", tmp_path / "w.pth", None))


def test_parts_of_other_widths_are_a_sentence(tmp_path: Path) -> None:
    names = [f"encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "key", "value")]
    sizes = (4, 5, 6)
    torch.save({"embeddings.x": torch.ones(1), **{n: torch.ones(3, s) for n, s in zip(names, sizes, strict=True)}},
               tmp_path / "w.pth")  # fmt: skip
    with pytest.raises(WeightsError, match=r"w.pth does not fit: .*; check --weights"):
        models.get("dinov2").build(Weights("w.pth", "", tmp_path / "w.pth", None))


def test_misfits_are_counted_and_the_first_named() -> None:
    expected = {f"layer{i}.weight": torch.ones(2) for i in range(9)} | {"bn.num_batches_tracked": torch.tensor(0)}
    state = {f"layer{i}.weight": torch.ones(2) for i in range(4)} | {"extra": torch.ones(1)}
    state["layer0.weight"] = torch.ones(3, 1)
    with pytest.raises(WeightsError) as caught:
        require_fit(state, expected, "w.pth")
    assert str(caught.value) == (
        "w.pth does not fit the network: missing 5 (layer4.weight, layer5.weight, layer6.weight, ...); "
        "unexpected 1 (extra); of another shape 1 (layer0.weight 3x1 instead of 2); check --weights."
    )


def test_the_counters_of_batch_norms_are_optional() -> None:
    require_fit({"w": torch.ones(1)}, {"w": torch.zeros(1), "bn.num_batches_tracked": torch.tensor(0)}, "w.pth")


def test_a_lone_query_of_a_transformers_file_stays_to_be_named() -> None:
    lone = {"encoder.layer.0.attention.attention.query.weight": torch.ones(2, 2)}
    assert list(from_transformers(lone)) == ["blocks.0.attn.q.weight"]


def test_a_file_for_another_model_is_refused(tmp_path: Path) -> None:
    spec = models.get("ssl4eo-s1")
    torch.save({"conv1.weight": torch.ones(64, 13, 7, 7)}, tmp_path / "s2.pth")
    with pytest.raises(WeightsError, match=r"conv1\.weight 64x13x7x7 instead of 64x2x7x7"):
        spec.build(resolve(spec, str(tmp_path / "s2.pth")))


def test_published_files_carry_their_hash_where_torch_hub_looks_for_it() -> None:
    for name in ("ssl4eo-s1", "ssl4eo-s2"):
        published = models.get(name).published
        assert published and int(Path(published.file).stem.rpartition("-")[2], 16) > 0
        assert replace(published, file="x").page.endswith(published.repository)
