"""A run on a Ray cluster of several nodes on loopback, with cards that are CPUs: nodes come, go and are killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtembed.cluster.on_ray import absolute
from mtembed.config import RunConfig
from mtembed.dataset.board import FolderBoard
from mtembed.dataset.claims import owners
from mtembed.errors import UsageError
from tests.tools.commands import embeddings, leftovers, run, start, wait_for
from tests.tools.remote import PLACE, bucket_served, there, times_put
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS = 6, 3
MACHINE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 1024**2}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="several Ray nodes on one machine: Linux only"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.timeout(600),  # several nodes of Ray on one small machine
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, cells = tmp_path_factory.mktemp("archive"), default_cells(SHARDS * CELLS)
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
        for number in range(SHARDS)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts that one process makes."""
    output = tmp_path_factory.mktemp("alone") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTEMBED_CPU_CARDS", "1")
        code, _, err = run(command(archive, output, "--gpus", "0"))
    assert code == 0, err
    return embeddings(output)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without a card, two machines that have one, and a bucket for which all have the keys."""
    utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch, bucket_served(folder, patch) as server:
        patch.setenv("MTEMBED_CPU_CARDS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        head = {**MACHINE, "num_gpus": 0, "include_dashboard": False}
        made = utils.Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", made.address)
        made.server = server
        made.machines = [made.add_node(**MACHINE) for _ in range(2)]
        yield made
        made.shutdown()


def command(archive: Path, output: Path | str, *more: str) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), *more, str(archive)]


def members(output: Path) -> set[str]:
    try:
        return {name for name in owners(FolderBoard(output / ".mtembed"), "claim").values() if name}
    except FileNotFoundError:
        return set()


def test_one_is_killed_one_is_added_and_the_bytes_are_the_same(
    cluster: Any, archive: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(command(archive, tmp_path / "out", "--cluster", "ray", "--lease", "5", "--json"))
    wait_for(lambda: len(members(tmp_path / "out")) == 2, process)
    cluster.remove_node(cluster.machines[0], allow_graceful=False)
    cluster.add_node(**MACHINE)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    end = json.loads(out.splitlines()[-1])
    assert (end["event"], end["cells"], end["failed"]) == ("end", SHARDS * CELLS, 0)
    assert embeddings(tmp_path / "out") == expected and leftovers(tmp_path / "out") == []
    code, out, err = run(["verify", str(tmp_path / "out"), "--shards", str(archive)])
    assert code == 0, out + err


def test_a_signal_drains_and_the_same_command_goes_on(cluster: Any, archive: Path, tmp_path: Path) -> None:
    words = command(archive, tmp_path / "out", "--cluster", "ray")
    process = start(words)
    wait_for(lambda: members(tmp_path / "out"), process)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130 and "run the same command again" in err, err
    code, _, err = run(words)
    assert code == 0, err
    assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"] and leftovers(tmp_path / "out") == []


def test_machines_that_share_nothing_but_a_bucket(cluster: Any, archive: Path, expected: dict[str, bytes]) -> None:
    code, out, err = run(command(archive, PLACE, "--cluster", "ray", "--json"))
    assert code == 0, out + err
    end = json.loads(out.splitlines()[-1])
    assert (end["output"], end["cells"], end["failed"]) == (PLACE, SHARDS * CELLS, 0)
    assert embeddings(there(cluster.server)) == expected and leftovers(there(cluster.server)) == []
    assert set(times_put(cluster.server).values()) == {1}
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0, out + err


def test_what_a_process_cannot_do_is_one_sentence_with_its_machine(cluster: Any, archive: Path, tmp_path: Path) -> None:
    code, _, err = run(command(archive, tmp_path / "out", "--gpus", "0", "--limit", "1"))
    assert code == 0, err
    code, _, err = run(command(archive, tmp_path / "out", "--cluster", "ray", "--dtype", "float16"))
    assert code == 1 and "dtype was float32, is now float16" in err.splitlines()[-1] and "Traceback" not in err, err


@pytest.mark.parametrize("options", [{"nodes_gpus": 1.0}, {"cluster": "slurm"}, {"cluster": "ray", "gpus": (0,)}])
def test_options_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RunConfig(("x",), model="rcf", **options)


def test_paths_are_whole_for_processes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").touch()
    found = absolute(RunConfig(("a/*.parquet",), model="rcf", weights="weights.pt", cluster="ray", fresh=True))
    assert found.shards == (str(tmp_path / "a/*.parquet"),) and found.output == str(tmp_path / "embeddings-rcf")
    assert found.weights == str(tmp_path / "weights.pt") and found.cluster is None and not found.fresh
    assert absolute(RunConfig(("a",), model="rcf", weights="random:1")).weights == "random:1"
