"""Run the real command in a subprocess, with faults, kills and a look at what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "faults"


def start(arguments: Sequence[str], faults: Sequence[Mapping[str, Any]] = (), **options: Any) -> subprocess.Popen[str]:
    """``mtembed ARGUMENTS`` in a process group of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(FAULTS)])}
    if faults:
        env["MTEMBED_TEST_FAULTS"] = json.dumps(list(faults))
    command = [sys.executable, "-m", "mtembed", *arguments]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True, **options
    )


def run(
    arguments: Sequence[str], faults: Sequence[Mapping[str, Any]] = (), timeout: float = 240.0, **options: Any
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(arguments, faults, **options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Until the condition holds; fails when the process ends first."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]


def workers_of(parent: int) -> dict[int, str]:
    """Live worker processes of a run, pid -> kind, from their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if b"mtembed.run.worker" in words and words[-2] == str(parent).encode() and state != "Z":
                found[int(folder.name)] = words[words.index(b"mtembed.run.worker") + 1].decode()
    return found


def embeddings(folder: Path) -> dict[str, bytes]:
    """Every file under ``embeddings/``, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "embeddings").iterdir())}


def leftovers(folder: Path) -> list[str]:
    """Files of an unfinished run that a finished one must not leave."""
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if ".mtembed" in path.parts or path.suffix == ".tmp"
    ]
