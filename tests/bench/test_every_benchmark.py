"""Every benchmark is imported and runs at its smallest size, so that none breaks unnoticed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import archive_cost, convert, end_to_end, host_path, large, many_shards, memory, pca, remote, search
from tests.tools.commands import ROOT

BENCH = ROOT / "bench"
NAMES = sorted(path.stem for path in BENCH.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"bench.{name}").__doc__


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("test_")])
def test_each_function_runs_once(name: str, tmp_path: Path) -> None:
    """As ``pytest bench`` runs it; a ratio to a yardstick is written for every function."""
    report = tmp_path / "report.json"
    options = ["--smallest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={report}", f"--basetemp={tmp_path}/b"]
    command = [sys.executable, "-m", "pytest", f"bench/{name}.py", *options]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no xdist worker
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(one["extra_info"]["ratio"] > 0 for one in json.loads(report.read_text())["benchmarks"])


def test_end_to_end(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    sizes = ["--cells", "3", "--rounds", "1", "--seconds", "0"]
    end_to_end.main(["--models", "rcf", "--engines", "torch", "--precisions", "fp32", *sizes, "--output", str(target)])
    (found,) = json.loads(target.read_text())["results"]
    assert (found["model"], found["engine"], found["precision"]) == ("rcf", "torch", "fp32")
    assert min(found["end_to_end"], found["model_alone"], found["reference_style"]) > 0


def test_host_path(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    host_path.main(["--cells", "4", "--model", "rcf", "--cell-ms", "1", "--pixels", "noisy", "--output", str(target)])
    content = json.loads(target.read_text())
    assert set(content["pixels"]["noisy"]["cpu_ms_per_cell"]) == set(host_path.KINDS)


@pytest.mark.parametrize("way", [[], ["--decoded"]])
def test_feed(way: list[str]) -> None:
    sizes = ["--model", "rcf", "--rate", "200", "--seconds", "0", "--per-shard", "4"]
    command = [sys.executable, "-m", "bench.feed", *sizes, *way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["cells"] == 4 and content["cells_per_s"] > 0 and "decode" in content["cpu_ms_per_cell"]


def test_many_shards(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    many_shards.main(["--shards", "2", "--resumes", "1", "--output", str(target)])
    assert json.loads(target.read_text())["shards"] == 2


def test_memory(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    memory.main(["--cells", "1", "--output", str(target)])
    assert set(json.loads(target.read_text())["peak_bytes"]) == {"1"}


def test_archive_cost(capsys: pytest.CaptureFixture[str]) -> None:
    archive_cost.main([])
    page = archive_cost.PAGE.read_text()
    tables = (archive_cost.bytes_table, archive_cost.fed_table, archive_cost.host_table)
    for table in tables:
        assert table() in page  # what stands in the documentation is what it computes
    rates = [0.5, 2.0, 12.5, 100.0]
    assert archive_cost.network_table(100.0, rates) in page
    assert "cells/s a GPU" in capsys.readouterr().out


def test_remote(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    remote.main(["--cells", "2", "--rounds", "1", "--cell-ms", "1", "--output", str(target)])
    content = json.loads(target.read_text())
    fetched, needed = (content[f"{what}_bytes_per_cell"] for what in ("fetched", "needed"))
    assert 6 * needed < 6 * fetched < 1.02 * 7 * needed  # of six cells one is looked at beforehand
    assert min(content["remote"]["parent"], content["local"]["peak_mib"], content["requests_per_cell"]) > 0


def test_pca(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    pca.main(["--rows", "300", "--dim", "8", "--output", str(target)])
    content = json.loads(target.read_text())
    assert min(content["ratio_of_fits"], content["mtembed"]["s"], content["incremental_pca"]["peak_bytes"]) > 0


def test_search(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    search.main(["--rows", "600", "--dim", "8", "--queries", "3", "--output", str(target)])
    content = json.loads(target.read_text())
    assert content["exact"]["recall_at_10"] == 1.0 and content["ivf"]["recall_at_10"] > 0.5
    assert min(content[side][fact] for side in search.SIDES for fact in ("build_s", "median_ms", "peak_bytes")) > 0


def test_convert(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    convert.main(["--rows", "300", "--dim", "8", "--forms", "array:uint8", "--output", str(target)])
    content = json.loads(target.read_text())
    assert content["forms"]["array:uint8"]["bytes"] > 0 and content["reading"]["fromfile_ms"] > 0


def test_large(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    large.main(["--rows", "300", "--dim", "8", "--only", "search, exact", "--output", str(target)])
    assert json.loads(target.read_text())["commands"]["search, exact"]["s"] > 0
