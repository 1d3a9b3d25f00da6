"""Runs with shards behind addresses: the same bytes as with local ones, no more of them fetched than needed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtembed.config import RunConfig
from mtembed.run.plan import plan
from mtembed.run.selected import chosen
from mtembed.storage.spans import of_columns
from tests.tools.commands import embeddings, leftovers, run
from tests.tools.shards import default_cells, make_shard, write_metadata
from tests.tools.web import Fault, Server, bucket, hub, serving

OWNER, NAME = "Major-TOM", "Core-S1RTC"
BANDS = ("vv", "vh", "product_id", "grid_cell", "product_datetime")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be served, with an archive in it."""
    folder = tmp_path_factory.mktemp("web")
    cells = default_cells(8)
    shards = [
        make_shard(folder / OWNER / NAME / f"images/part_{number}.parquet", cells[4 * number :][:4], "S1RTC")
        for number in range(2)
    ]
    write_metadata(folder / OWNER / NAME / "metadata.parquet", shards)
    return folder


@pytest.fixture
def server(web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(web) as found:
        yield found


def command(output: Path, *shards: str) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), *shards]


@pytest.fixture(scope="module")
def expected(web: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(output, str(web / OWNER / NAME)))
    assert code == 0, err
    return embeddings(output)


def needed(web: Path) -> int:
    """Bytes of the chunks that cells are made of, and of the footers."""
    total = 0
    for path in (web / OWNER / NAME / "images").iterdir():
        footer = pq.read_metadata(path)
        total += sum(stop - start for start, stop in of_columns(footer, range(footer.num_row_groups), BANDS))
        total += footer.serialized_size
    return total


def test_a_web_server(server: Server, web: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output, copy = tmp_path / "out", (web / OWNER / NAME / "metadata.parquet").stat().st_size
    urls = [server.url(f"{OWNER}/{NAME}/images/part_{i}.parquet?sig=s3cr3t") for i in range(2)]
    code, out, err = run(command(output, *urls))
    assert code == 0, err
    assert embeddings(output) == expected and leftovers(output) == []
    tails, first_cell = 8 * len(server.requests), needed(web) // 8
    assert server.sent <= 1.02 * (needed(web) + first_cell) + copy + tails, server.requests
    told = out + err + "".join(path.read_text() for path in output.iterdir() if path.is_file())
    assert "s3cr3t" not in told
    fetched = json.loads((output / "manifest.json").read_text())["notes"]["network"]
    assert (fetched["requests"], fetched["bytes"]) == (len(server.requests), server.sent) and fetched["blocked"] > 0
    code, out, err = run(["report", str(output), "--json"])
    assert json.loads(out)["network"]["bytes"] == server.sent
    asked = len(server.requests)
    code, _, err = run(command(output, *urls))
    assert code == 0 and "nothing to do" in err and len(server.requests) - asked < 20
    code, out, err = run(["verify", str(output), "--shards", *urls])
    assert code == 0, out + err


def test_a_web_server_that_fails_all_the_time(server: Server, expected: dict[str, bytes], tmp_path: Path) -> None:
    chance = random.Random(3)
    kinds = [Fault("500"), Fault("429", after="0"), Fault("reset"), Fault("cut"), None, None, None]
    server.fail_next(chance.choice(kinds) for _ in range(2000))
    urls = [server.url(f"{OWNER}/{NAME}/images/part_{i}.parquet") for i in range(2)]
    code, _, err = run(command(tmp_path / "out", *urls))
    assert code == 0, err
    assert embeddings(tmp_path / "out") == expected


def test_two_starts_add_up_and_a_measured_read_is_said_to_be_over_the_network(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"{OWNER}/{NAME}/images/part_{i}.parquet") for i in range(2)]
    code, _, err = run(command(tmp_path / "out", urls[0]))
    assert code == 0, err
    first = json.loads((tmp_path / "out/manifest.json").read_text())["notes"]["network"]
    code, _, err = run([*command(tmp_path / "out", *urls), "--roofline"])
    assert code == 0 and "cells/s, read over the network; mtembed report" in err, err
    content = json.loads((tmp_path / "out/manifest.json").read_text())
    assert content["notes"]["network"]["requests"] > first["requests"] and content["roofline"]["over_network"]
    assert "of images over the network." in run(["report", str(tmp_path / "out")])[1]


@pytest.mark.parametrize("shards", ["", "/images", "/images/part_*.parquet", "/im*/part_[01].parquet"])
def test_a_bucket(
    server: Server, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: str
) -> None:
    server.answer = bucket
    for name, value in {"ENDPOINT_URL": server.url(), "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s3cr3t"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    code, _, err = run(command(tmp_path / "out", f"s3://{OWNER}/{NAME}{shards}"))
    assert code == 0, err
    assert embeddings(tmp_path / "out") == expected and "s3cr3t" not in err


def test_the_hub(server: Server, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = hub
    monkeypatch.setenv("HF_ENDPOINT", server.url().rstrip("/"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    code, _, err = run(command(tmp_path / "out", f"hf:{NAME}"))
    assert code == 0, err
    assert embeddings(tmp_path / "out") == expected and "s3cr3t" not in err
    asked = [request.path for request in server.requests if "/resolve/" in request.path]
    assert asked and all(f"/resolve/{'0' * 40}/" in path for path in asked)  # one commit, whatever becomes of main


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("{url}nothing/part_1.parquet", "nothing/part_1.parquet does not exist"),
        ("{url}Major-TOM/Core-S1RTC", "web servers list no folders: name each file"),
        ("ftpx://host/part_1.parquet", "no store is called so"),
        ("s3://", "is no address"),
        ("hf:nonsense", "is no address"),
    ],
)
def test_addresses_that_lead_nowhere(server: Server, tmp_path: Path, shards: str, words: str) -> None:
    code, _, err = run(command(tmp_path / "out", shards.format(url=server.url())))
    assert code == 2 and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_selection_that_opens_many_shards_says_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtembed.run.selected.MANY", 1)
    urls = [server.url(f"{OWNER}/{NAME}/images/part_{i}.parquet") for i in range(2)]
    options = {"model": "rcf", "fragment_size": 32, "bbox": (-180.0, -90.0, 180.0, 90.0)}
    told: list[str] = []
    assert not chosen(plan(RunConfig.of(urls, output=str(tmp_path / "out"), **options)), told.append).empty
    assert told == ["opening up to 2 shards to see which hold a selected cell"]


def test_a_shard_that_refuses_is_a_failed_shard(server: Server, tmp_path: Path) -> None:
    """The run goes on without it; its place in the list of failures has no secret."""
    first = f"{OWNER}/{NAME}/images/part_0.parquet"
    urls = [server.url(f"{first}?sig=s3cr3t"), server.url("gone/part_1.parquet?sig=s3cr3t")]
    code, _, err = run(command(tmp_path / "out", *urls))
    assert code == 3, err
    (failure,) = map(json.loads, (tmp_path / "out/failures.jsonl").read_text().splitlines())
    assert failure["shard"] == "part_1.parquet" and failure["row_group"] is None
    assert "does not exist" in failure["error"] and "s3cr3t" not in json.dumps(failure) + err
