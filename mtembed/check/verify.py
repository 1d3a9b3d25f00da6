"""Read a dataset back and check everything that can be checked: folder, manifest, parts, and the input where given.

Folder: every shard of the manifest has both of its files, nothing else is there, no run is unfinished.  Manifest: its
sums, settings and facts agree with the files.  Parts: schema, encodings, cells and timings (``verify_part``) and every
row (``verify_rows``).  Input, with ``--shards``: the fingerprint, and the names of the cells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtembed import models
from mtembed.archive.shards import find_shards, fingerprint, open_shard
from mtembed.check.findings import Findings, Problem, Verdict
from mtembed.check.part import PartContent, PartOrder, check_part
from mtembed.check.rows import Expected
from mtembed.dataset.folder import WORK, Dataset
from mtembed.dataset.manifest import Manifest as Record
from mtembed.dataset.manifest import read, totals
from mtembed.errors import MtembedError, ShardError, UsageError
from mtembed.parquet import UNREADABLE, first_line

__all__ = ["Problem", "Verdict", "sentence", "verify"]

AGAIN = "run the same command again to finish"
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One process's manifest, with the parts of it that the checks rely on."""

    dataset: Dataset
    record: Record
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return self.dataset.manifest_path.name

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.content["settings"])

    @property
    def shards(self) -> dict[str, dict[str, Any]]:
        return dict(self.content["shards"])

    @property
    def expected(self) -> Expected:
        names = ("dtype", "extras", "fragment_size", "overlap", "border_shift", "max_nodata")
        return Expected(self.content["model"]["dim"], *(self.settings[name] for name in names))

    @property
    def everything(self) -> bool:
        """Whether all cells of every shard were wanted."""
        return all(self.settings[name] is None for name in ("bbox", "cells_sha256", "limit"))


def verify(root: Path, shards: Sequence[Path] = (), tick: Tick = lambda done, total: None) -> Verdict:
    """Check the dataset in ``root``, and the input ``shards`` (files, folders) it was made from where they are given.

    ``tick`` is told the rows checked so far and all there are.  Needs the memory of one row group.  Raises UsageError
    when ``root`` is no output folder, or a shard does not exist; all else is in the verdict.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the output folder of a run")
    if not (Dataset(root).manifests() or (root / "embeddings").is_dir()):
        raise UsageError(f"{root} has neither a manifest nor embeddings: name the output folder of a run")
    inputs = {path.name: path for path in find_shards(str(path) for path in shards)}
    findings = Findings()
    manifests = _read_manifests(root, findings)
    _check_folder(root, manifests, findings)
    cells = array("Q")
    rows = [0, sum(facts["embeddings"] for manifest in manifests for facts in manifest.shards.values())]

    def count(number: int) -> None:
        rows[0] += number
        tick(*rows)

    for manifest in manifests:
        _check_parts(manifest, inputs, findings, count, cells)
    _check_inputs_done(inputs, manifests, findings)
    findings.verdict.info |= _info(manifests, inputs, cells)
    return findings.verdict


def sentence(verdict: Verdict) -> str:
    """What to say at the end."""
    info = verdict.info
    notes = [f"{info['embeddings']} embeddings of {info['cells']} cells in {_several(info['parts'], 'part')}"]
    notes += [f"{_several(info['failed'], 'cell')} failed"] if info["failed"] else []
    notes += (
        [f"grid cells repeat {_several(info['repeated_grid_cells'], 'time')}"] if info["repeated_grid_cells"] else []
    )
    unseen = info["parts"] - info["inputs_checked"]
    notes += [f"the input of {_several(unseen, 'part')} was not compared (--shards)"] if unseen else []
    outcome = "everything is right" if verdict.ok else _several(verdict.counts.total(), "problem")
    return f"{outcome}: {'; '.join(notes)}"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


# -- manifests ----------------------------------------------------------------------------------------------------


def _read_manifests(root: Path, findings: Findings) -> list[Manifest]:
    """All that can be used; processes that are missing or do not belong together are problems."""
    paths = Dataset(root).manifests()
    if not paths:
        findings.add("manifest", "manifest.json", f"there is no manifest: {AGAIN}")
    found = [manifest for path in paths if (manifest := _read_manifest(path, findings)) is not None]
    counts = sorted({manifest.dataset.count for manifest in found})
    if len(counts) > 1:
        findings.add("manifest", "", f"manifests of runs with --shard-count {' and '.join(map(str, counts))} are mixed")
    elif counts and counts[0] > 1:
        for index in sorted(set(range(counts[0])) - {manifest.dataset.index for manifest in found}):
            name = Dataset(root, index, counts[0]).manifest_path.name
            findings.add("manifest", name, f"this process's manifest is missing: start it with --shard-index {index}")
    for manifest in found[1:]:
        _check_same_settings(found[0], manifest, findings)
    return found


def _read_manifest(path: Path, findings: Findings) -> Manifest | None:
    """The manifest, if it is one of the process that its name says."""
    dataset = Dataset.of_manifest(path)
    try:
        record = read(path)
    except MtembedError as error:
        findings.add("manifest", path.name, str(error))
        return None
    made_by = record.settings.shard_count
    if made_by != dataset.count:
        problem = f"it is named for {dataset.count} processes and was made by one of {made_by}"
        findings.add("manifest", path.name, f"{problem}: give it its name back")
        return None
    return Manifest(dataset, record, record.as_json())


def _check_same_settings(first: Manifest, other: Manifest, findings: Findings) -> None:
    for name, value in first.settings.items():
        if name != "shard_count" and other.settings.get(name) != value:
            findings.add("manifest", other.name, f"{name} is {other.settings.get(name)}, in {first.name} {value}")


def _check_manifest(manifest: Manifest, findings: Findings) -> None:
    """Sums, and the model's own numbers."""
    found = findings.of(manifest.name)
    sums, stored = dataclasses.asdict(totals(manifest.record.shards)), manifest.content["totals"]
    for name, value in sums.items():
        if stored[name] != value:
            found.add("manifest", f"totals give {name} {stored[name]}, the shards add up to {value}")
    settings, model = manifest.settings, manifest.content["model"]
    try:
        spec = models.get(settings["model"])
        wanted = {"name": spec.name, "dim": spec.dim, "bands": list(spec.bands_for(settings["source"]))}
    except UsageError as error:
        found.add("manifest", str(error))
        return
    for name, value in wanted.items():
        if model.get(name) != value:
            found.add("manifest", f"the model's {name} is {model.get(name)}, {spec.name} has {value}")


# -- folder -------------------------------------------------------------------------------------------------------


def _check_folder(root: Path, manifests: Sequence[Manifest], findings: Findings) -> None:
    """Nothing left over from an unfinished run, no file that no manifest knows, a dataset card."""
    work = root / WORK
    leftovers = sorted(work.iterdir()) if work.is_dir() else []
    for path in [*leftovers, *sorted(root.glob(".*.tmp"))]:
        name = str(path.relative_to(root))
        if path.name.startswith("lock") and _held(path):
            findings.add("unfinished", name, "a run is working on this dataset: wait for its end")
        else:
            findings.add("unfinished", name, f"left over from an unfinished run: {AGAIN}")
    known: dict[str, str] = {}
    for manifest in manifests:
        for stem in manifest.shards:
            if stem in known:
                findings.add("twice", manifest.name, f"{stem} is in {known[stem]} too")
            known.setdefault(stem, manifest.name)
    for manifest in manifests:
        if not manifest.content.get("complete"):
            findings.add("unfinished", manifest.name, f"the run did not come to its end: {AGAIN}")
    for folder in ("embeddings", "timings"):
        for path in sorted((root / folder).glob("*")):
            if path.suffix != ".parquet" or path.stem not in known:
                findings.add("orphan", f"{folder}/{path.name}", "no manifest knows this file")
    if not (root / "README.md").is_file():
        findings.add("missing", "README.md", f"the dataset card is missing: {AGAIN}")


def _held(path: Path) -> bool:
    """Whether a living process holds this lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


# -- parts and input ----------------------------------------------------------------------------------------------


def _check_parts(
    manifest: Manifest, inputs: Mapping[str, Path], findings: Findings, count: Callable[[int], None], cells: array[int]
) -> None:
    _check_manifest(manifest, findings)
    failures: list[dict[str, Any]] = []
    for stem, facts in sorted(manifest.shards.items()):
        order = PartOrder(manifest.dataset, stem, facts, manifest.expected, manifest.everything)
        content = check_part(order, findings, count)
        failures += content.failures
        cells.extend(_short_hash(name) for name, _ in content.names.values())
        if facts["shard"] in inputs:
            _check_input(inputs[facts["shard"]], facts, content, findings)
    _check_failures(manifest, failures, findings)


def _short_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _check_failures(manifest: Manifest, expected: Iterable[Mapping[str, Any]], findings: Findings) -> None:
    """The list of failed cells is what the timings say."""
    path = manifest.dataset.failures_path
    try:
        listed = [json.dumps(json.loads(line), sort_keys=True) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        findings.add("failures", path.name, f"cannot be read ({first_line(error)}): {AGAIN}")
        return
    wanted = [json.dumps(row, sort_keys=True) for row in expected]
    for line in sorted(set(wanted) - set(listed)):
        findings.add("failures", path.name, f"{_cell(line)} failed by its timing and is not listed")
    for line in sorted(set(listed) - set(wanted)):
        findings.add("failures", path.name, f"{_cell(line)} is listed and did not fail so by its timing")
    if len(listed) != len(set(listed)):
        findings.add("failures", path.name, "a cell is listed twice")


def _cell(line: str) -> str:
    row = json.loads(line)
    return f"row group {row.get('row_group')} of {row.get('shard')}" if isinstance(row, dict) else line[:60]


def _check_input(path: Path, facts: Mapping[str, Any], content: PartContent, findings: Findings) -> None:
    """The shard is the one that was embedded, and its rows are the cells that the dataset names."""
    found = findings.of(path.name)
    try:
        with open_shard(path) as file:
            mark = dataclasses.asdict(fingerprint(path, file.metadata.num_row_groups))
            for name in ("size", "rows", "footer_sha256"):
                if facts["footer_sha256"] and mark[name] != facts[name]:
                    found.add("input", f"its {name} is {mark[name]}, and was {facts[name]} when it was embedded")
                    return
            if not facts["footer_sha256"]:
                found.add("input", "it could not be opened when it was embedded, and can now: use --retry-failed")
                return
            for row, names in content.names.items():
                stored = file.read_row_group(row, columns=["grid_cell", "product_id"], use_threads=False).to_pylist()[0]
                if names != (stored["grid_cell"] or "", stored["product_id"] or ""):
                    found.add("input", f"holds {stored['grid_cell']} of {stored['product_id']}", f"row group {row}")
    except (ShardError, *UNREADABLE, LookupError) as error:
        if facts["footer_sha256"]:
            found.add("input", first_line(error))


def _check_inputs_done(inputs: Mapping[str, Path], manifests: Sequence[Manifest], findings: Findings) -> None:
    """Every shard that was named has a part (with a limit on cells the later ones have none)."""
    known = {facts["shard"] for manifest in manifests for facts in manifest.shards.values()}
    if manifests and manifests[0].settings["limit"] is None:
        for name in sorted(inputs.keys() - known):
            findings.add("missing", name, f"this shard has no part in the dataset: {AGAIN}")


def _info(manifests: Sequence[Manifest], inputs: Mapping[str, Path], cells: array[int]) -> dict[str, Any]:
    shards = [facts for manifest in manifests for facts in manifest.shards.values()]
    info: dict[str, Any] = {"manifests": len(manifests), "parts": len(shards)}
    info |= {name: sum(facts[name] for facts in shards) for name in ("cells", "failed", "embeddings")}
    names = np.frombuffer(cells, np.uint64) if cells else np.empty(0, np.uint64)
    info["repeated_grid_cells"] = len(names) - len(np.unique(names))
    info["inputs_checked"] = sum(facts["shard"] in inputs for facts in shards)
    with contextlib.suppress(IndexError):
        settings = manifests[0].settings
        info |= {name: settings[name] for name in ("model", "weights", "source", "dtype", "extras")}
    return info
