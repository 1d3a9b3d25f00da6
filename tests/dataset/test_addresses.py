"""Datasets behind addresses: every command says of them what it says of the same files on this machine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from mtembed.dataset.at_hand import part_by_part
from mtembed.dataset.reader import open_dataset
from mtembed.storage import stores
from tests.tools.commands import run
from tests.tools.shards import default_cells, make_shard
from tests.tools.web import Handler, Server, bucket, hub, serving

OWNER, NAME = "somebody", "vectors"
KINDS = ("web", "bucket", "hub")
SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be served, with a dataset of two parts in it."""
    found = tmp_path_factory.mktemp("served")
    cells = default_cells(8)
    for number in range(2):
        make_shard(found / f"shards/part_{number}.parquet", cells[4 * number :][:4], "S1RTC")
    output = ["--output", str(found / OWNER / NAME), "--device", "cpu"]
    code, _, err = run(["--model", "rcf", "--fragment-size", "32", *output, str(found / "shards")])
    assert code == 0, err
    return found


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(folder) as found:
        keys = {"ENDPOINT_URL": found.url(), "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": SECRET}
        for name, value in keys.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_ENDPOINT", found.url().rstrip("/"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", f"hf_{SECRET}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        stores._store.cache_clear()  # this process's, of other servers
        yield found
    stores._store.cache_clear()


def address(server: Server, kind: str, below: str = "") -> str:
    """The dataset's, or that of something in it."""
    if kind == "web":
        return server.url(f"{OWNER}/{NAME}{below}?sig={SECRET}")
    server.answer = bucket if kind == "bucket" else hub
    return f"{'s3://' if kind == 'bucket' else 'hf://datasets/'}{OWNER}/{NAME}{below}"


def said(arguments: list[str], cwd: Path) -> dict[str, Any]:
    """The last thing that a command says with --json."""
    code, out, err = run([*arguments, "--json"], cwd=cwd)
    assert code == 0, out + err
    assert SECRET not in out + err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_maps_searches_and_checks_are_the_same(server: Server, folder: Path, tmp_path: Path, kind: str) -> None:
    here, there = str(folder / OWNER / NAME), address(server, kind)
    row = pq.read_table(folder / OWNER / NAME / "embeddings/part_1.parquet")["unique_id"][3].as_py()
    query = ["--row", row, "--top", "5"]
    said(["pca", here, "--output", "local"], tmp_path)
    made = said(["pca", there], tmp_path)
    assert made["output"] == f"{NAME}-pca"
    for name in ("pca.json", "components.parquet", "map.tif", "map.png"):
        assert (tmp_path / f"{NAME}-pca" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    expected = said(["search", here, *query], tmp_path)
    assert said(["search", there, *query], tmp_path) == expected
    assert said(["index", there], tmp_path)["output"] == f"{NAME}-index"
    through = said(["search", there, *query], tmp_path)
    assert through["method"] != "exact" or through["hits"] == expected["hits"]
    assert SECRET not in (tmp_path / f"{NAME}-index/index.json").read_text()
    assert said(["verify", there], tmp_path) == said(["verify", here], tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_reports_and_facts_are_the_same(server: Server, folder: Path, tmp_path: Path, kind: str) -> None:
    here, there = str(folder / OWNER / NAME), address(server, kind)
    for number, name in enumerate((here, there)):
        said(["convert", name, f"convert-{number}", "--to", "int8"], tmp_path)
        said(["merge", name, f"merge-{number}"], tmp_path)
    for one in sorted(tmp_path.glob("*-0/**/*.*")):
        assert Path(str(one).replace("-0/", "-1/")).read_bytes() == one.read_bytes()
    assert said(["report", there], tmp_path) == said(["report", here], tmp_path)
    assert said(["inspect", there], tmp_path) == said(["inspect", here], tmp_path)
    part = "/embeddings/part_0.parquet"
    facts = said(["inspect", address(server, kind, part)], tmp_path)
    assert facts == said(["inspect", here + part], tmp_path)
    health = said(["evaluate", there], tmp_path)
    assert health["output"] == f"{NAME}-evaluation"
    assert health["health"] == said(["evaluate", here, "--output", "here"], tmp_path)["health"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [["pca"], ["search", "--row", "a"], ["verify"], ["report"], ["inspect"]])
def test_what_is_not_there_is_one_sentence(server: Server, tmp_path: Path, kind: str, command: list[str]) -> None:
    code, out, err = run([*command, address(server, kind, "/nothing")], cwd=tmp_path)
    assert code in (1, 2) and len(err.splitlines()) == 1 and "nothing" in err and SECRET not in out + err


def test_what_a_command_does_not_read_is_not_fetched(server: Server, folder: Path, tmp_path: Path) -> None:
    """A report copies no embeddings."""
    said(["report", address(server, "bucket")], tmp_path)
    assert not [request for request in server.requests if "/embeddings/" in request.path]


def test_an_archive_and_a_shard_of_it(server: Server, folder: Path, tmp_path: Path) -> None:
    make_shard(folder / OWNER / "Core-S1RTC/images/part_0.parquet", default_cells(2), "S1RTC")
    here = said(["inspect", str(folder / OWNER / "Core-S1RTC")], tmp_path)
    server.answer = bucket
    archive = f"s3://{OWNER}/Core-S1RTC"
    assert (
        said(["inspect", archive], tmp_path) == here == said(["inspect", f"{archive}/images/part_0.parquet"], tmp_path)
    )


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_check_holds_one_part_on_the_disk_and_fetches_the_next(server: Server, tmp_path: Path, kind: str) -> None:
    with part_by_part(address(server, kind)) as (root, each):
        names = {f"{folder}/part_{i}.parquet" for folder in ("embeddings", "timings") for i in range(2)}
        assert {str(path.relative_to(root)) for path in root.glob("*/*.parquet")} == names
        for stem in each(["part_0", "part_1"]):
            for place in ("embeddings", "timings"):
                there = server.folder / OWNER / NAME / place / f"{stem}.parquet"
                assert (root / place / there.name).read_bytes() == there.read_bytes()
                before = root / place / "part_0.parquet"
                assert stem == "part_0" or before.stat().st_size == 0
        assert {str(path.relative_to(root)) for path in root.glob("*/*.parquet")} == names
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept < (server.folder / OWNER / NAME / "embeddings/part_0.parquet").stat().st_size


def test_what_is_wrong_far_away_is_found_there(server: Server, folder: Path, tmp_path: Path) -> None:
    server.answer = bucket
    copy = folder / OWNER / "spoilt"
    shutil.copytree(folder / OWNER / NAME, copy)
    (copy / "embeddings/part_0.parquet").unlink()
    (copy / "timings/part_9.parquet").write_bytes(b"nobody's")
    part = bytearray((copy / "embeddings/part_1.parquet").read_bytes())
    part[len(part) // 2] ^= 1
    (copy / "embeddings/part_1.parquet").write_bytes(part)
    results = [run(["verify", name, "--json"], cwd=tmp_path) for name in (str(copy), f"s3://{OWNER}/spoilt")]
    assert results[0] == results[1] and results[0][0] == 1
    assert {"missing", "orphan"} < set(json.loads(results[0][1])["counts"])
    shutil.rmtree(copy)


def test_footers_are_asked_for_side_by_side(server: Server) -> None:
    """Two files are opened at the same time: each request for an end waits for the other's."""
    both = threading.Barrier(2, timeout=20.0)
    met: list[int] = []

    def together(handler: Handler) -> bool:
        if "/embeddings/" in handler.path and handler.headers.get("Range") == "bytes=-8":
            met.append(both.wait())
        return False

    told: list[tuple[str, int, int]] = []
    server.answer = together
    urls = [server.url(f"{OWNER}/{NAME}/embeddings/part_{i}.parquet") for i in range(2)]
    dataset = open_dataset(urls, tick=lambda *words: told.append(words))
    assert len(dataset.files) == 2 and sorted(met) == [0, 1]
    assert told == [("opening files", 1, 2), ("opening files", 2, 2)]


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("form", ["array", "array:int8"])
def test_raw_arrays_are_read_where_they_are(server: Server, folder: Path, tmp_path: Path, kind: str, form: str) -> None:
    here = folder / OWNER / f"array-{form.partition(':')[2]}"
    if not here.exists():
        said(["convert", str(folder / OWNER / NAME), str(here), "--to", form], tmp_path)
    there = address(server, kind).replace(NAME, here.name)
    near, far = open_dataset(here), open_dataset(there)
    assert far.rows == near.rows and far.model == near.model == "rcf"
    for one, other in zip(near.batches(("grid_cell",), 7), far.batches(("grid_cell",), 7), strict=True):
        assert one.table.equals(other.table) and np.array_equal(one.vectors, other.vectors)
    row = near.take(0, [3], ("unique_id",), vectors=False)[1]["unique_id"][0].as_py()
    query = ["--row", row, "--top", "5"]
    assert said(["search", there, *query], tmp_path)["hits"] == said(["search", str(here), *query], tmp_path)["hits"]
    (server.folder / OWNER / here.name / "embeddings.bin").rename(folder / "away.bin")
    code, _, err = run(["pca", there], cwd=tmp_path)
    assert code == 1 and "embeddings.bin is not there" in err and len(err.splitlines()) == 1
    (folder / "away.bin").rename(server.folder / OWNER / here.name / "embeddings.bin")


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_over_a_dataset_that_is_far_away(server: Server, folder: Path, tmp_path: Path, kind: str) -> None:
    here, there = folder / OWNER / NAME, address(server, kind)
    rows = ds.dataset(here / "embeddings").to_table(columns=["unique_id", "centre_lat"]).replace_schema_metadata(None)
    pq.write_table(rows, tmp_path / "labels.parquet")
    options = ["--labels", str(tmp_path / "labels.parquet"), "--column", "centre_lat", "--folds", "random"]
    said(["evaluate", str(here), *options, "--output", "scores", "--save-probe", "probe.safetensors"], tmp_path)
    near = said(["predict", str(here), "--probe", "probe.safetensors", "--output", "near"], tmp_path)
    far = said(["predict", there, "--probe", "probe.safetensors", "--output", "far"], tmp_path)
    assert far == near | {"output": "far"}
    for name in ("predictions.parquet", "predictions.tif", "predictions.png"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()


def test_bad_parts_behind_an_address_are_not_repaired(server: Server, tmp_path: Path) -> None:
    code, _, err = run(["verify", address(server, "bucket"), "--repair", "--shards", "x.parquet"], cwd=tmp_path)
    assert code == 2 and "give one on this machine" in err
