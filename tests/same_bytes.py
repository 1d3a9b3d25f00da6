"""What a user sees of a run, as lines that can be compared: before and after a change that must not be seen.

    python tests/same_bytes.py > before.txt      then change, then: python tests/same_bytes.py | diff before.txt -

Embeds the packaged sample with several models and options, and prints the digest of every part; the schema of its
timings, manifest and failures; exit code, stdout and stderr of commands that cannot succeed; every help text.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "mtembed" / "sample"
RUNS = {
    "rcf-s2l1c": ("S2L1C", "--model", "rcf"),
    "rcf-s2l2a-extras": ("S2L2A", "--model", "rcf", "--extras", "--max-nodata", "0.9", "--offset", "remove"),
    "rcf-s1-half": ("S1RTC", "--model", "rcf", "--dtype", "float16", "--overlap", "0.3"),
    "rcf-small": ("S2L2A", "--model", "rcf", "--fragment-size", "96", "--no-border-shift", "--workers", "2"),
    "ssl4eo-s2": ("S2L1C", "--model", "ssl4eo-s2", "--weights", "random:0", "--precision", "fp32"),
    "ssl4eo-s1-auto": ("S1RTC", "--model", "ssl4eo-s1", "--weights", "random:0"),
    "dinov2": ("S2L2A", "--model", "dinov2", "--weights", "random:0", "--overlap", "0"),
}
REFUSALS = {
    "no-shard": ("--model", "rcf", "nothing-here.parquet"),
    "no-model": ("--model", "resnet", "{s2l2a}"),
    "missing-band": ("--model", "ssl4eo-s1", "--weights", "random:0", "{s2l2a}"),
    "bad-option": ("--model", "rcf", "--overlap", "1", "{s2l2a}"),
    "unknown-option": ("--model", "rcf", "--no-such", "1", "{s2l2a}"),
    "no-weights": ("--model", "ssl4eo-s2", "--weights", "nothing.pth", "{s2l1c}"),
    "other-settings": ("--model", "rcf", "--overlap", "0.2", "--output", "{out}/rcf-s2l1c", "{s2l1c}"),
    "report-nothing": ("report", "nothing-here"),
    "verify-nothing": ("verify", "nothing-here"),
    "inspect-nothing": ("inspect", "nothing-here.parquet"),
}
COMMANDS = ("", "run", "demo", "models", "inspect", "verify", "report")


def shard(source: str) -> str:
    return str(SAMPLE / f"Core-{source}" / "images" / "part_00001.parquet")


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtembed", *words], cwd=folder, text=True, capture_output=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "100"},
    )  # fmt: skip


def said(text: str, folder: Path) -> str:
    """A text without what differs between two runs: folders, times, durations, rates and progress."""
    text = text.replace(str(folder), "OUT").replace(str(ROOT), ".")
    text = re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\d+ of .*\n)?", "", text)  # the time, and lines of progress
    return re.sub(r"\d+(\.\d+)?(?= (s|ms|cells/s|min|h)\b)", "N", text)


def keys(content: object, path: str = "") -> Iterator[str]:
    """Every key of a JSON object, with the keys of objects in it."""
    if isinstance(content, dict):
        for name, value in sorted(content.items()):
            yield f"{path}.{name}"
            yield from keys(value, f"{path}.{name}")


def facts(folder: Path) -> Iterator[str]:
    """What is fixed of a dataset."""
    for path in sorted((folder / "embeddings").iterdir()):
        yield f"embeddings {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    for path in sorted((folder / "timings").iterdir()):
        yield f"timings {path.name} {' '.join(pq.read_schema(path).names)}"
    manifest = json.loads((folder / "manifest.json").read_text())
    yield f"manifest {' '.join(keys(manifest))}"
    yield f"settings {json.dumps(manifest['settings'], sort_keys=True)}"
    yield f"failures {(folder / 'failures.jsonl').read_text()!r}"
    yield f"files {sorted(path.name for path in folder.iterdir())}"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mtembed-same-") as name:
        folder = Path(name)
        for label, (source, *options) in RUNS.items():
            done = command(folder, *options, "--output", label, shard(source))
            print(f"== {label}: {done.returncode}")
            print(said(done.stdout + done.stderr, folder))
            print("\n".join(facts(folder / label)))
            for check in ("verify", "report"):
                print(f"-- {check}: {command(folder, check, label).returncode}")
        places = {"out": str(folder), **{f"s{s[1:].lower()}": shard(s) for s in ("S2L1C", "S2L2A", "S1RTC")}}
        for label, words in REFUSALS.items():
            done = command(folder, *(word.format(**places) for word in words))
            print(f"== {label}: {done.returncode}\n{said(done.stdout + done.stderr, folder)}")
        for name in COMMANDS:
            print(f"== {name or 'mtembed'} --help\n{command(folder, *filter(None, [name]), '--help').stdout}")


if __name__ == "__main__":
    main()
