"""The dataset card: front matter that the hub reads, the truth about provenance, loading code that runs."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mtembed.dataset import readme
from mtembed.dataset.manifest import Manifest
from tests.tools.commands import run
from tests.tools.shards import cut, make_shard, write_metadata

DIM = 512


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder: two cells of three, one being damaged."""
    folder = tmp_path_factory.mktemp("made")
    shard = make_shard(folder / "images" / "part_00007.parquet", 3, side=48, damage={(1, "B04"): cut})
    write_metadata(folder / "metadata.parquet", [shard])
    code, _, err = run(["--model", "rcf", "--fragment-size", "32", "--output", str(folder / "out"), str(shard.path)])
    assert code == 3, err
    return folder / "out"


@pytest.fixture
def manifest(dataset: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((dataset / "manifest.json").read_text())
    return content


def card(manifest: dict[str, Any]) -> str:
    return readme.render(msgspec.convert(manifest, Manifest))


def front_matter(text: str) -> Any:
    before, matter, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter)


def test_the_card_of_a_run_is_made_from_its_manifest(dataset: Path, manifest: dict[str, Any]) -> None:
    written = (dataset / "README.md").read_text()
    assert front_matter(written) == front_matter(card(manifest))
    assert "8 embeddings of 2 cells" in card(manifest)
    assert card(manifest) == card(copy.deepcopy(manifest))


def test_front_matter(manifest: dict[str, Any]) -> None:
    matter = front_matter(card(manifest))
    assert matter["license"] == "cc-by-sa-4.0"
    assert matter["configs"] == [{"config_name": "default", "data_files": "embeddings/*.parquet"}]
    assert {"rcf", "major-tom", "sentinel-2"} <= set(matter["tags"])
    assert matter["size_categories"] == ["n<1K"]
    assert "rcf" in matter["pretty_name"]


@pytest.mark.parametrize(("count", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (56_147_150, "10M<n<100M")])
def test_size_categories(manifest: dict[str, Any], count: int, name: str) -> None:
    manifest["totals"]["embeddings"] = count
    assert front_matter(card(manifest))["size_categories"] == [name]


def test_odd_names_do_not_break_the_front_matter_or_a_table(manifest: dict[str, Any]) -> None:
    manifest["model"]["name"] = 'a: "b" #c'
    manifest["command"] = "mtembed a|b\nc"
    text = card(manifest)
    assert 'a: "b" #c' in front_matter(text)["pretty_name"]
    assert "`mtembed a\\|b c`" in text


def test_a_name_of_a_file_stays_text(manifest: dict[str, Any]) -> None:
    """It stands in a code span, in a list and in a literal of Python; nothing of it becomes a line or an element."""
    stem = "a\n---\nlicense: mit\n```\n<b>`x`</b>"
    facts = manifest["shards"].pop("part_00007")
    manifest["shards"][stem] = facts | {"shard": f"{stem}.parquet"}
    text = card(manifest)
    lines = text.splitlines()
    assert lines.count("---") == 2 and "license: mit" not in lines and lines.count("```") == text.count("```python")
    for block in re.findall(r"```python\n(.*?)\n```", text, re.DOTALL):
        compile(block, "card", "exec")


def test_provenance_is_told(manifest: dict[str, Any]) -> None:
    manifest["weights"] |= {"file": "some.pth", "sha256": "ab" * 32}
    text = card(manifest)
    for fact in ("some.pth", "ab" * 32, manifest["versions"]["torch"], "0 16", "B8A", manifest["model"]["citation"]):
        assert fact in text
    assert "CC-BY-SA-4.0" in text and "Copernicus" in text and manifest["weights"]["licence"] in text


def test_failures_and_warnings_are_told(manifest: dict[str, Any]) -> None:
    text = card(manifest)
    assert "## Failures" in text and "`part_00007`: 1" in text
    manifest["shards"]["part_00007"]["failed"] = 0
    manifest["totals"] |= {"failed": 0, "warnings": {}}
    assert "## Failures" not in card(manifest)
    manifest["totals"]["warnings"] = {"no line in the metadata": 2}
    assert "- no line in the metadata: 2" in card(manifest)


def test_random_weights_are_marked_loudly_and_others_are_not(manifest: dict[str, Any]) -> None:
    assert "RANDOM" not in card(manifest)
    manifest["weights"] |= {"random": True, "file": "random:5"}
    text = card(manifest)
    assert "RANDOM WEIGHTS" in text.partition("## ")[0] and "random:5" in text


def test_a_16_bit_run_says_how_far_it_is_from_fp32(manifest: dict[str, Any]) -> None:
    check = {
        "precision": "bf16",
        "engine": "torch",
        "fragments": 5,
        "median_relative_l2": 0.00321,
        "worst_relative_l2": 0.0123,
    }
    manifest["notes"] = {"precision_check": check}
    text = card(manifest)
    assert "3.21e-03" in text and "1.23e-02" in text


def test_a_shared_folder_says_so(manifest: dict[str, Any]) -> None:
    assert "processes write into this folder" not in card(manifest)
    manifest["settings"]["shard_count"] = 8
    assert "8 processes write into this folder" in card(manifest)


def test_no_absolute_path_and_no_user_name(manifest: dict[str, Any], dataset: Path) -> None:
    text = card(manifest)
    assert str(dataset.parent) not in text and str(Path.home()) not in text
    assert not re.search(r"(?<![\w:/.])/(?:home|tmp|root|Users|work)\b", text)


def test_extras_have_their_columns(manifest: dict[str, Any]) -> None:
    assert "`saturated`" not in card(manifest)
    manifest["settings"]["extras"] = True
    assert "`saturated`" in card(manifest)


def test_the_loading_code_runs(dataset: Path, manifest: dict[str, Any], tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", card(manifest), re.DOTALL)[0]
    script = f"{code}\nassert len(frame) == len(frames) == len(data) == len(rows.collect()) == 8\n"
    script += f"assert frames.crs.to_epsg() == 4326 and vectors.shape == (8, {DIM}) and len(cell) == count > 0\n"
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=dataset, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
