"""Standard streams that are closed, full, or of another encoding; no folder for temporary files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.commands import ROOT, embeddings
from tests.tools.shards import make_shard

MTEMBED = f"{sys.executable} -m mtembed"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, text=True, capture_output=True, check=False, env=env, timeout=240
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_failure(closed: str, tmp_path: Path) -> None:
    done = shell(f"{MTEMBED} models {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in closed.split())


def test_a_run_without_streams_makes_the_same_dataset(tmp_path: Path) -> None:
    """Nothing that the run opens takes the number of a closed stream."""
    shard = make_shard(tmp_path / "part_00001.parquet", 1, side=48).path
    words = f"--model rcf --fragment-size 32 --output {{}} {shard.name}"
    assert shell(f"{MTEMBED} {words.format('base')}", tmp_path).returncode == 0
    assert shell(f"{MTEMBED} {words.format('closed')} <&- >&- 2>&-", tmp_path).returncode == 0
    assert embeddings(tmp_path / "closed") == embeddings(tmp_path / "base")


@pytest.mark.parametrize("words", ["models", "models --json"])
def test_a_full_disk_behind_stdout_is_one_sentence(words: str, tmp_path: Path) -> None:
    done = shell(f"{MTEMBED} {words} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mtembed: standard output cannot be written") and done.stderr.count("\n") == 1


def test_a_full_disk_behind_stderr_stops_nothing(tmp_path: Path) -> None:
    make_shard(tmp_path / "part_00001.parquet", 1, side=48)
    done = shell(f"{MTEMBED} --model rcf --fragment-size 32 --output out part_00001.parquet 2>/dev/full", tmp_path)
    assert done.returncode == 0 and len(embeddings(tmp_path / "out")) == 1


def test_an_encoding_without_the_characters_replaces_them(tmp_path: Path) -> None:
    name = "sp\N{LATIN SMALL LETTER A WITH DIAERESIS}\N{SNOWMAN}.parquet"
    pq.write_table(pa.table({"x": [1]}), tmp_path / name)
    done = shell(f"PYTHONIOENCODING=ascii {MTEMBED} inspect sp*.parquet", tmp_path)
    assert "Traceback" not in done.stderr and "sp??.parquet" in done.stdout + done.stderr


def test_markup_and_escapes_in_names_of_columns_are_shown_as_they_are(tmp_path: Path) -> None:
    columns = {"[/bold]": [1], "[link=x]y": [1], "a\x1b[31mb": [1], "eo:cloud.cover": [0.5], "B04": [b"x"]}
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    done = shell(f"{MTEMBED} inspect odd.parquet", tmp_path)
    assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr
