"""Benchmarks are compared by their ratios to a yardstick, never by absolute times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMPARE = Path(__file__).resolve().parents[2] / "bench" / "compare.py"


def written(path: Path, **ratios: float) -> Path:
    """A file as pytest-benchmark writes it, as far as it is read."""
    info: dict[str, Any] = {"machine": "x86_64", "system": "Linux", "python_version": "3.11.7"}
    cpu = {"brand_raw": "Example(R) CPU 9000 @ 2.0GHz", "count": 4}
    benchmarks = [{"name": name, "extra_info": {"yardstick": "y", "ratio": value}} for name, value in ratios.items()]
    benchmarks.append({"name": "without_a_yardstick", "extra_info": {}})
    content = {"machine_info": {**info, "cpu": cpu}, "datetime": "2026-01-01", "commit_info": {"id": "abc"}}
    path.write_text(json.dumps({**content, "benchmarks": benchmarks}))
    return path


def compare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, COMPARE, *words], capture_output=True, text=True)


def test_only_a_fall_by_more_than_a_tenth_is_an_error(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", decode=10.0, forward=2.0, gone=1.0)
    fine = compare(written(tmp_path / "fine.json", decode=9.1, forward=3.0, added=1.0), "--baseline", old)
    assert fine.returncode == 0, fine.stderr
    assert "-9.0%" in fine.stdout and "+50.0%" in fine.stdout and "new" in fine.stdout
    assert "not in this run: gone" in fine.stdout
    worse = compare(written(tmp_path / "worse.json", decode=8.9, forward=2.0), "--baseline", old)
    assert worse.returncode == 1 and "decode" in worse.stderr and "forward" not in worse.stderr


def test_a_class_of_machine_without_a_baseline(tmp_path: Path) -> None:
    found = compare(written(tmp_path / "new.json", decode=10.0))
    assert found.returncode == 1 and "baseline-example-9000-4-cores.json" in found.stderr and "--accept" in found.stderr
