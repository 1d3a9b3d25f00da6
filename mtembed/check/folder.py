"""What lies in an output folder beside parts: leftovers, files of nobody, the list of failed cells, the card."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtembed.check.findings import AGAIN, Findings
from mtembed.dataset import readme
from mtembed.dataset.atomic import read_regular
from mtembed.dataset.folder import FOLDERS, WORK, Dataset
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.members import at_work
from mtembed.parquet import first_line

RENEW = "delete it and run the same command again"


def in_work(root: Path) -> bool:
    """Whether a run is working in the folder."""
    return bool(at_work(root / WORK))


def check_leftovers(root: Path, known: Collection[str], findings: Findings) -> None:
    """Nothing is left of an unfinished run, and no file is there that no manifest knows."""
    work = root / WORK
    for path in [*(sorted(work.iterdir()) if work.is_dir() else ()), *sorted(root.glob(".*.tmp"))]:
        findings.add("unfinished", str(path.relative_to(root)), f"left over from an unfinished run: {AGAIN}")
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*")):
            if path.suffix != ".parquet" or path.stem not in known:
                findings.add("orphan", f"{folder}/{path.name}", "no manifest knows this file: move it away")


def check_card(root: Path, manifests: Collection[Manifest], findings: Findings) -> None:
    """The card is there.  Another text than a run writes is worth a note only: people may add to it."""
    path = root / "README.md"
    try:
        text = read_regular(path).decode("utf-8", "replace")
    except OSError:
        findings.add("missing", path.name, f"the dataset card is missing: {AGAIN}")
        return
    if manifests and text not in {readme.render(manifest) for manifest in manifests}:
        findings.note(f"{path.name} is not the text that the run wrote: someone changed it, or it was damaged")


def check_failures(dataset: Dataset, expected: Iterable[Mapping[str, Any]], findings: Findings) -> None:
    """The list of failed cells is what the timings say."""
    path = dataset.failures_path
    try:
        listed = [json.dumps(json.loads(line), sort_keys=True) for line in read_regular(path).decode().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        findings.add("failures", path.name, f"cannot be read ({first_line(error)}): {RENEW}")
        return
    wanted = [json.dumps(row, sort_keys=True) for row in expected]
    for line in sorted(set(wanted) - set(listed)):
        findings.add("failures", path.name, f"{_cell(line)} failed by its timing and is not listed: {RENEW}")
    for line in sorted(set(listed) - set(wanted)):
        findings.add("failures", path.name, f"{_cell(line)} is listed and did not fail so by its timing: {RENEW}")
    if len(listed) != len(set(listed)):
        findings.add("failures", path.name, f"a cell is listed twice: {RENEW}")


def _cell(line: str) -> str:
    row = json.loads(line)
    return f"row group {row.get('row_group')} of {row.get('shard')}" if isinstance(row, dict) else line[:60]
