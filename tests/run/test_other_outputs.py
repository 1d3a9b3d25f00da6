"""Datasets made in stores that cannot create exclusively: a file system of fsspec, and the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools.commands import embeddings, leftovers, run, start
from tests.tools.hub import writable
from tests.tools.remote import here
from tests.tools.shards import default_cells, make_shard
from tests.tools.web import serving

SHARDS, CELLS = 3, 2


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, cells = tmp_path_factory.mktemp("archive"), default_cells(SHARDS * CELLS)
    for number in range(SHARDS):
        make_shard(folder / f"images/part_{number}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
    return folder


def command(archive: Path, output: str | Path, *more: str) -> list[str]:
    small = ("--workers", "1", "--share-of-machine", "0.5")
    return ["--model", "rcf", "--fragment-size", "32", *small, "--output", str(output), *more, str(archive)]


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(archive, output))
    assert code == 0, err
    return embeddings(output)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_system_of_fsspec(archive: Path, expected: dict[str, bytes], tmp_path: Path, cache: Path) -> None:
    """Processes of one machine share it; those of several are told how."""
    place = f"local://{tmp_path}/there/vectors"
    both = [start(command(archive, place)) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0 and "one machine at a time" in err, out + err
    folder = tmp_path / "there/vectors"
    assert embeddings(folder) == expected and leftovers(folder) == [] and here(cache) == []
    code, out, err = run(["verify", place, "--shards", str(archive)])
    assert code == 0, out + err
    code, _, err = run(command(archive, place, "--fresh"))
    assert code == 0 and embeddings(folder) == expected, err


def test_a_deal_needs_no_claims(archive: Path, expected: dict[str, bytes], tmp_path: Path, cache: Path) -> None:
    place = f"local://{tmp_path}/vectors"
    for index in range(2):
        code, _, err = run(command(archive, place, "--shard-index", str(index), "--shard-count", "2"))
        assert code == 0 and "one machine at a time" not in err, err
    code, out, err = run(["finish", place, "--json"])
    assert code == 0 and json.loads(out)["joined"] == 2 and json.loads(out)["complete"], err
    assert embeddings(tmp_path / "vectors") == expected
    assert [path.name for path in (tmp_path / "vectors").glob("manifest*")] == ["manifest.json"]


def test_a_cluster_needs_claims(archive: Path, tmp_path: Path, cache: Path) -> None:
    code, _, err = run(command(archive, f"local://{tmp_path}/vectors", "--cluster", "ray"))
    assert code == 2 and "with --cluster give a folder that all machines see, or s3://" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "vectors").exists()


def test_the_hub(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    known = {"HF_TOKEN": "hf_s3cr3t", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    with serving(tmp_path / "hub") as server:
        server.answer = writable
        monkeypatch.setenv("HF_ENDPOINT", server.url().rstrip("/"))
        place = "hf://datasets/somebody/vectors/rcf"
        code, out, err = run(command(archive, place))
        assert code == 0 and "one machine at a time" in err and "hf_s3cr3t" not in out + err, out + err
        folder = tmp_path / "hub/somebody/vectors/rcf"
        assert embeddings(folder) == expected and json.loads((folder / "manifest.json").read_text())["complete"]
        code, out, err = run(["status", place, "--json"])
        assert code == 0 and json.loads(out)["complete"], err
        assert "nothing to do" in run(command(archive, place))[2]
    assert here(cache) == []
