"""``manifest.json``: what it holds, and that whatever stands in its place is a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mtembed.dataset.manifest import Manifest, read, totals
from mtembed.dataset.origin import carried_on, command_line, noted
from mtembed.errors import OutputError
from mtembed.notes import BatchHalved, DecodedBands, LaneDropped, PrecisionCheck, Unpinned, WorkerReady
from tests import fuzz_manifest
from tests.tools.manifests import facts, manifest, settings

FUZZED = 40
KEYS = [
    "started", "runs", "devices", "notes", "starts", "input", "mtembed", "settings", "model", "weights",
    "data_licence", "fragment_grid", "versions", "command", "warnings", "complete", "shards", "totals",
]  # fmt: skip


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    whole = manifest(facts(), facts("part_00002", failed=1, cells=2))
    assert read(written(tmp_path / "manifest.json", whole.as_json())) == whole


def test_the_keys_are_those_of_the_file_and_what_is_not_known_is_left_out() -> None:
    content = manifest(facts(), ended=None).as_json()
    assert list(content) == KEYS and content["input"] is None
    assert list(manifest(seconds=1.5, cells_per_s=2.0).as_json()) == [*KEYS, "seconds", "cells_per_s", "ended"]


def test_a_changed_value_is_noticed_and_another_layout_is_not(tmp_path: Path) -> None:
    content = manifest(facts()).sealed()
    path = written(tmp_path / "manifest.json", dict(reversed(content.items())))
    assert read(path) == manifest(facts(), started=content["started"], ended=content["ended"])
    content["versions"]["numpy"] = "1.0"
    with pytest.raises(OutputError, match="something in it was changed"):
        read(written(path, content))


def test_keys_of_another_version_are_no_fault(tmp_path: Path) -> None:
    content = manifest(facts()).as_json() | {"something": "new"}
    assert read(written(tmp_path / "manifest.json", content)).totals.cells == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("settings"), "settings"),
        (lambda m: m["settings"].update(precision="fp8"), "precision"),
        (lambda m: m["settings"].update(overlap=1.0), "share"),
        (lambda m: m["settings"].update(batch=0), "batch"),
        (lambda m: m["settings"].update(bbox=[1.0, 2.0]), "box"),
        (lambda m: m["model"].update(dim=-1), "dim"),
        (lambda m: m["shards"].update({"../x": m["shards"]["part_00001"]}), "../x"),
        (lambda m: m["shards"].update({"b": m["shards"]["part_00001"]}), "not the name of a part"),
        (lambda m: m["shards"]["part_00001"].update(rows=10**10), "rows"),
        (lambda m: m["shards"]["part_00001"].update(cells=-3), "cells"),
        (lambda m: m["shards"]["part_00001"].update(failed=2**70), "failed"),
        (lambda m: m["shards"]["part_00001"].update(encodings={"none": "all"}), "int"),
        (lambda m: m.update(seconds="long"), "float"),
        (lambda m: m.update(command="\ud800"), "manifest.json"),
    ],
)
def test_values_that_no_run_writes_are_refused_in_one_sentence(tmp_path: Path, change: Any, words: str) -> None:
    content = manifest(facts()).as_json()
    change(content)
    with pytest.raises(OutputError, match="is not a manifest of mtembed") as caught:
        read(written(tmp_path / "manifest.json", content))
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[" * 100_000, "null", '{"name": "a web app"}', "{", '{"runs": NaN}'])
def test_files_that_are_no_manifest_are_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match="is not a manifest of mtembed"):
        read(tmp_path / "manifest.json")


def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    (tmp_path / "manifest-0-of-2.json").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(OutputError, match="cannot be read"):
            read(path)


@pytest.mark.parametrize("number", range(FUZZED))
def test_mutated_manifests_are_taken_or_refused_in_one_sentence(number: int) -> None:
    """A few of those that ``tests/fuzz_manifest.py`` tries by the hundred."""
    assert fuzz_manifest.attempt(fuzz_manifest.make(1, number)) in ("decoded", "refused")


def test_notes_of_workers_reach_the_manifest(tmp_path: Path) -> None:
    check = PrecisionCheck("bf16", "torch", 5, 0.001, 0.002)
    told = [
        WorkerReady("a card", "cupy", {"openvino": "2026.1"}),
        WorkerReady("a card", "cupy", {}),
        check,
        DecodedBands(2, 1),
        DecodedBands(3, 0),
        BatchHalved(0, 512, 256),
        LaneDropped(1, "was killed"),
        Unpinned(0, "no memory"),
        Unpinned(0, "no memory"),
    ]
    found = manifest(facts())
    for note in told:
        found = noted(found, note)
    assert found.devices == ("a card",) and found.kernels == ("cupy",)
    assert found.versions["openvino"] == "2026.1" and "torch" in found.versions
    assert found.notes.precision_check == check and found.notes.decoded_bands == DecodedBands(5, 1)
    assert found.notes.batch_halved == ({"card": 0, "from": 512, "to": 256},)
    assert found.notes.dropped_cards == ({"lane": 1, "cause": "was killed"},)
    assert found.notes.unpinned == ({"card": 0, "cause": "no memory"},)
    assert read(written(tmp_path / "manifest.json", found.as_json())) == found


def test_a_start_carries_on_what_earlier_ones_know() -> None:
    earlier = noted(manifest(facts(), runs=3, seconds=10.0, started="then"), WorkerReady("a card", "cupy", {}))
    first = manifest(made=settings(), started="now", ended=None)
    kept = {"part_00001": facts()}
    found = carried_on(first, earlier, shards=kept, names=("part_00001.parquet",), complete=True)
    assert (found.runs, found.seconds, found.started, found.devices) == (3, 10.0, "then", ("a card",))
    assert found.shards == kept and found.totals == totals(kept)
    assert carried_on(first, None, shards={}, names=(), complete=False).runs == first.runs


def test_the_command_names_no_folder_and_escapes_bytes_that_are_no_text() -> None:
    words = ["/usr/bin/mtembed", "--output", "/home/someone/out", os.fsdecode(b"x\xe9.parquet")]
    assert command_line(words) == "mtembed --output out x\\xe9.parquet"
    assert command_line(["mtembed", *["a"] * 50]).endswith("... and 11 more")


def test_the_totals_are_sums() -> None:
    parts = {"a": facts("a"), "b": facts("b", cells=1, failed=2, warnings={"odd": 2})}
    sums = totals(parts)
    assert (sums.shards, sums.cells, sums.failed, sums.embeddings) == (2, 4, 2, 150)
    assert sums.warnings == {"odd": 2} and sums.encodings == {"none": 6}
    assert isinstance(manifest(*parts.values()), Manifest)
