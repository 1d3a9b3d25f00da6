"""``bench.gpu`` on a bare machine: what it imports is there, and it goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import gpu

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "cyclopts", "pyproj", "shapely", "rasterio", "geopandas", "torchgeo", "open_clip", "imagecodecs",
    "msgspec", "duckdb", "obstore", "faiss", "affine", "openvino",
)  # fmt: skip
STEPS = ("bench.gpu", "bench.gpu_right", "bench.gpu_speed", "bench.gpu_decode")


def test_the_steps_need_torch_timm_pyarrow_and_numba_only() -> None:
    script = f"""
import importlib, sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
for name in {STEPS!r}:
    importlib.import_module(name)
from mtembed import models
for name in models.names():
    models.get(name)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_of_this_machine_are_kept_and_others_begin_anew(tmp_path: Path) -> None:
    target, machine = tmp_path / "gpu.json", {"device": "a", "versions": {"torch": "2"}}
    content = gpu.earlier(target, machine)
    assert content["results"] == {}
    content["results"]["right"] = {"rcf": {"done": True}}
    gpu.save(target, content)
    assert gpu.earlier(target, machine) == content and list(tmp_path.iterdir()) == [target]
    assert gpu.earlier(target, {**machine, "device": "b"})["results"] == {}


def test_right_comes_before_fast_and_every_model_before_the_next_step() -> None:
    steps = [(step, model) for step, model, _ in gpu.steps(["rcf", "siglip"])]
    assert steps[:4] == [("right", "rcf"), ("right", "siglip"), ("speed", "rcf"), ("speed", "siglip")]
    assert steps[-2:] == [("run", "rcf"), ("run", "siglip")]


def test_only_lines_that_are_objects_are_results() -> None:
    text = "a warning\n" + json.dumps({"alone": 1.5}) + "\n[1]\n"
    assert list(gpu.objects(text)) == [{"alone": 1.5}]


def test_another_process_with_other_bits_is_noticed() -> None:
    results = {"right": {"rcf": {"fp32": {"digest": "a"}}}, "same": {"rcf": {"digest_of_another_process": "b"}}}
    gpu.compare(results, "same", "rcf")
    assert results["same"]["rcf"]["equal"] is False  # type: ignore[comparison-overlap]
