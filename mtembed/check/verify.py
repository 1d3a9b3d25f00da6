"""Read a dataset back and check everything that can be checked: folder, manifest, parts, and the input where given.

Folder: every shard of the manifest has both of its files, nothing else is there, no run is unfinished.  Manifest: its
sums, settings and facts agree with the files.  Parts: schema, encodings, cells and timings (``verify_part``) and every
row (``verify_rows``).  Input, with ``--shards``: the fingerprint, and the names of the cells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtembed import models
from mtembed.archive.shards import find_shards
from mtembed.check.expected import Expected
from mtembed.check.findings import AGAIN, Findings, Problem, Verdict
from mtembed.check.folder import check_card, check_failures, check_leftovers, in_work
from mtembed.check.inputs import check_input
from mtembed.check.part import PartOrder, check_part
from mtembed.dataset.at_hand import Each
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest as Record
from mtembed.dataset.manifest import read, totals
from mtembed.dataset.timings import read_facts
from mtembed.errors import MtembedError, OutputError, UsageError
from mtembed.storage.address import Place

__all__ = ["Problem", "Verdict", "sentence", "verify"]

RESTORE = "restore the manifest from a copy, or start over with --fresh"
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
        values = {name: self.settings[name] for name in names}
        return Expected(dim=self.content["model"]["dim"], shape=self.record.model.shape, **values)

    @property
    def everything(self) -> bool:
        """Whether all cells of every shard were wanted."""
        return all(self.settings[name] is None for name in ("bbox", "cells_sha256", "where", "limit"))


def verify(
    root: Path, shards: Sequence[str | Path] = (), tick: Tick = lambda done, total: None, each: Each = iter
) -> Verdict:
    """Check the dataset in ``root``, and the input ``shards`` (files, folders) it was made from where they are given.

    While a run is working in the folder only the parts that are finished are checked.  ``tick`` is told the rows
    checked so far and all there are; ``each`` brings the files of a part when it is its turn.  Needs the memory of one
    row group.  Raises UsageError when ``root`` is no output folder, or a shard does not exist; all else is in the
    verdict.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name the output folder of a run")
    if not (Dataset(root).manifests() or (root / "embeddings").is_dir()):
        raise UsageError(f"{root} has neither a manifest nor embeddings: name the output folder of a run")
    inputs = {path.name: path for path in find_shards(str(path) for path in shards)}
    findings, working = Findings(), in_work(root)
    manifests = _read_manifests(root, findings, working)
    parts = _parts(manifests, working, findings)
    cells = array("Q")
    failures = _check_parts(parts, inputs, findings, tick, cells, each)
    for manifest in manifests:
        _check_manifest(manifest, findings)
        if not working:
            check_failures(manifest.dataset, _failures(manifest, failures), findings)
            if not manifest.record.complete:
                findings.add("unfinished", manifest.name, f"the run did not come to its end: {AGAIN}")
    if not working:
        check_leftovers(root, parts.keys(), findings)
        check_card(root, [manifest.record for manifest in manifests], findings)
        _check_inputs_done(inputs, manifests, findings)
    findings.verdict.info |= _info(manifests, parts, inputs, cells) | {"working": working}
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
    right = "a run is working here; finished parts are right" if info["working"] else "everything is right"
    outcome = right if verdict.ok else _several(verdict.counts.total(), "problem")
    return f"{outcome}: {'; '.join(notes)}"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


# -- manifests ----------------------------------------------------------------------------------------------------


def _read_manifests(root: Path, findings: Findings, working: bool) -> list[Manifest]:
    """All that can be used; processes that are missing or do not belong together are problems."""
    paths = Dataset(root).manifests()
    if not paths and not working:
        findings.add("manifest", "manifest.json", f"there is no manifest: {AGAIN}")
    found = [manifest for path in paths if (manifest := _read_manifest(path, findings)) is not None]
    counts = sorted({manifest.dataset.count for manifest in found})
    if len(counts) > 1:
        mixed = f"manifests of runs with --shard-count {' and '.join(map(str, counts))} are mixed"
        findings.add("manifest", "", f"{mixed}: join them with mtembed finish")
    elif counts and counts[0] > 1 and not working:
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
            there = other.settings.get(name)
            findings.add("manifest", other.name, f"{name} is {there}, in {first.name} {value}: {RESTORE}")


def _check_manifest(manifest: Manifest, findings: Findings) -> None:
    """Sums, and the model's own numbers."""
    found = findings.of(manifest.name)
    sums, stored = dataclasses.asdict(totals(manifest.record.shards)), manifest.content["totals"]
    for name, value in sums.items():
        if stored[name] != value:
            found.add("manifest", f"totals give {name} {stored[name]}, the shards add up to {value}: {RESTORE}")
    settings, model = manifest.settings, manifest.content["model"]
    try:
        spec = models.get(settings["model"], settings.get("model_card"))
        if settings.get("dense"):
            spec = models.mapped(spec, settings["fragment_size"])
        wanted = {"name": spec.name, "dim": spec.dim, "bands": list(spec.bands_for(settings["source"]))}
    except UsageError as error:
        found.add("manifest", str(error))
        return
    for name, value in wanted.items():
        if model.get(name) != value:
            found.add("manifest", f"the model's {name} is {model.get(name)}, {spec.name} has {value}: {RESTORE}")


# -- parts and input ----------------------------------------------------------------------------------------------


def _parts(manifests: Sequence[Manifest], working: bool, findings: Findings) -> dict[str, PartOrder]:
    """What is promised about every part, by stem, each once.

    A part that two manifests list must be the same to both.  While a run is working, parts that are being made again
    are left out, and those that are finished and not in a manifest yet are taken from their timings.
    """
    parts: dict[str, PartOrder] = {}
    for manifest in manifests:
        done = manifest.dataset.done_stems() if working else None
        listed = {stem: facts for stem, facts in manifest.shards.items() if done is None or stem in done}
        for stem, facts in listed.items():
            if stem in parts and parts[stem].facts != facts:
                findings.add(
                    "manifest", manifest.name, f"{stem} is in another manifest too, with other facts: {RESTORE}"
                )
            parts.setdefault(stem, _order(manifest, stem, facts))
    if working and manifests:
        for stem in sorted(manifests[0].dataset.done_stems() - parts.keys()):
            with contextlib.suppress(OutputError):
                facts = dataclasses.asdict(read_facts(manifests[0].dataset.timings(stem)))
                parts[stem] = _order(manifests[0], stem, facts)
    return parts


def _order(manifest: Manifest, stem: str, facts: Mapping[str, Any]) -> PartOrder:
    return PartOrder(manifest.dataset, stem, facts, manifest.expected, manifest.everything)


def _check_parts(
    parts: Mapping[str, PartOrder],
    inputs: Mapping[str, Place],
    findings: Findings,
    tick: Tick,
    cells: array[int],
    each: Each,
) -> dict[str, list[dict[str, Any]]]:
    """Every part, and its input where it is given; returns the failed cells by stem.

    ``cells`` gets a hash of every cell's name: names themselves would be too many.
    """
    rows = [0, sum(part.facts["embeddings"] for part in parts.values())]

    def count(number: int) -> None:
        rows[0] += number
        tick(*rows)

    failures = {}
    for stem in each(sorted(parts)):
        part = parts[stem]
        content = check_part(part, findings, count)
        failures[stem] = content.failures
        cells.extend(_short_hash(name or "") for name, _ in content.names.values())
        if part.facts["shard"] in inputs:
            check_input(inputs[part.facts["shard"]], part.facts, content, findings)
    return failures


def _failures(manifest: Manifest, failures: Mapping[str, list[dict[str, Any]]]) -> list[Mapping[str, Any]]:
    """The lines of a process's list of failures, from the timings and from what the manifest notes."""
    lost = {"row_group": None, "grid_cell": "", "product_id": ""}
    lines = [{**lost, **shard} for shard in manifest.content["notes"].get("lost_shards", ())]
    return [*lines, *(row for stem in sorted(manifest.shards) for row in failures.get(stem, ()))]


def _check_inputs_done(inputs: Mapping[str, Place], manifests: Sequence[Manifest], findings: Findings) -> None:
    """Every shard that was named has a part, where all cells are wanted: a selection may have none in it."""
    known = {facts["shard"] for manifest in manifests for facts in manifest.shards.values()}
    if manifests and manifests[0].everything:
        for name in sorted(inputs.keys() - known):
            findings.add("missing", name, f"this shard has no part in the dataset: {AGAIN}")


def _info(
    manifests: Sequence[Manifest],
    parts: Mapping[str, PartOrder],
    inputs: Mapping[str, Place],
    cells: array[int],
) -> dict[str, Any]:
    facts = [part.facts for part in parts.values()]
    info: dict[str, Any] = {"manifests": len(manifests), "parts": len(facts)}
    info |= {name: sum(one[name] for one in facts) for name in ("cells", "failed", "embeddings")}
    info["repeated_grid_cells"] = len(cells) - len(np.unique(np.array(cells, np.uint64)))
    info["inputs_checked"] = sum(one["shard"] in inputs for one in facts)
    with contextlib.suppress(IndexError):
        settings = manifests[0].settings
        info |= {name: settings[name] for name in ("model", "weights", "source", "dtype", "extras")}
    return info


def _short_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")
