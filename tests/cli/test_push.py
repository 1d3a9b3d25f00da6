"""``mtembed push`` to a hub that takes it: what is there afterwards, what is sent a second time, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtembed.dataset import push as pushing
from tests.tools.commands import run
from tests.tools.finished import finished
from tests.tools.hub import writable
from tests.tools.web import Fault, Server, serving

PLACE = "hf://datasets/somebody/vectors"
SECRET = "hf_s3cr3t"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    finished(tmp_path)
    return tmp_path / "out"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as found:
        found.answer = writable
        for name, value in {"HF_TOKEN": SECRET, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_ENDPOINT", found.url().rstrip("/"))
        yield found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_of_it_once_and_then_what_changed(server: Server, out: Path) -> None:
    code, said, err = run(["push", str(out), PLACE, "--json"])
    assert code == 0, said + err
    first = json.loads(said.splitlines()[-1])
    assert first["event"] == "result" and first["sent"] == first["files"] == len(files(out))
    assert files(server.folder / "somebody/vectors") == files(out) and SECRET not in said + err
    code, said, _ = run(["push", str(out), PLACE])
    assert code == 0 and "nothing to do" in said
    (out / "README.md").write_text("another card")
    (server.folder / "somebody/vectors/embeddings/part_1.parquet").unlink()
    code, said, _ = run(["push", str(out), PLACE, "--json"])
    assert json.loads(said.splitlines()[-1])["sent"] == 2
    assert files(server.folder / "somebody/vectors") == files(out)
    assert run(["push", str(out), f"{PLACE}/rcf", "--quiet"]) == (0, "", "")
    assert files(server.folder / "somebody/vectors/rcf") == files(out)


def test_a_hub_that_refuses_is_one_sentence(server: Server, out: Path) -> None:
    server.fail_next([Fault("403")] * 20)
    code, said, err = run(["push", str(out), PLACE])
    assert code == 1 and "set HF_TOKEN to a token that may write" in err
    assert len(err.splitlines()) == 1 and SECRET not in said + err


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://bucket/vectors", "give hf://datasets/OWNER/NAME"),
        ("hf://somebody/vectors", "give hf://datasets/OWNER/NAME"),
        ("hf://datasets/vectors", "give hf://datasets/OWNER/NAME"),
        ("somewhere", "is no address"),
    ],
)
def test_places_that_are_none_of_the_hub(out: Path, place: str, words: str) -> None:
    code, _, err = run(["push", str(out), place])
    assert code == 2 and words in err and len(err.splitlines()) == 1


def test_what_is_not_finished_is_not_sent(server: Server, out: Path) -> None:
    (out / ".mtembed").mkdir()
    code, _, err = run(["push", str(out), PLACE])
    assert code == 2 and "is not finished" in err and "mtembed finish" in err
    (out / ".mtembed").rmdir()
    (out / "embeddings/part_0.parquet").unlink()
    assert run(["push", str(out), PLACE])[0] == 2
    assert not server.requests
    code, _, err = run(["push", str(out.parent), PLACE])
    assert code == 2 and "is not a dataset made by mtembed" in err


def test_killed_between_two_commits_it_goes_on_after_the_last(server: Server, out: Path) -> None:
    script = """
import os, sys
from mtembed.dataset import push
push.BATCH_FILES = 2
push.push(sys.argv[1], sys.argv[2], tick=lambda done, total: done and os._exit(9))
"""
    killed = subprocess.run([sys.executable, "-c", script, str(out), PLACE], capture_output=True, check=False)
    first = files(server.folder / "somebody/vectors")
    assert killed.returncode == 9 and len(first) == 2 and "manifest.json" not in first, killed.stderr
    code, said, err = run(["push", str(out), PLACE, "--json"])
    assert code == 0, said + err
    assert json.loads(said.splitlines()[-1])["sent"] == len(files(out)) - 2
    assert files(server.folder / "somebody/vectors") == files(out)


def test_the_manifest_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "BATCH_FILES", 2)
    finished(tmp_path)
    named = pushing.files_of(tmp_path / "out")
    assert list(named)[-1] == "manifest.json"
    assert [len(batch) for batch in pushing.batches(named)] == [2, 2, 2, 1]
