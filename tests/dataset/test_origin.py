"""What is learnt while a run lasts goes into the manifest: kernels, unlike GPUs; no kind of note is lost."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtembed import models
from mtembed.config import RunConfig
from mtembed.dataset.folder import Dataset
from mtembed.dataset.joint import joined
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.origin import begin, carried_on, noted
from mtembed.dataset.record import RunRecord
from mtembed.dataset.settings import resolve
from mtembed.machine import Gpus
from mtembed.notes import DecodedOnCpu, Note, PrecisionUnknown, ShardLost, Traffic, Unfused, Unpinned, WorkerReady
from mtembed.types import Weights
from tests.test_notes import NOTES
from tests.tools.manifests import manifest as made


@pytest.fixture
def manifest() -> Manifest:
    spec = models.get("rcf")
    config = RunConfig(("x",), model="rcf", device="cpu")
    settings = resolve(config, spec, "S2L1C", Weights("random:1", "", None, 1), None, Gpus(()))
    return begin(spec, settings, (1068, 1068))


def ready(device: str, independent: bool | None) -> WorkerReady:
    return WorkerReady(device, "nvrtc", {"torch": "2"}, independent)


@pytest.mark.parametrize(
    ("told", "expected"),
    [([None], None), ([True, True], True), ([True, False], False), ([False, True], False)],
)
def test_one_gpu_that_looks_at_places_ends_the_promise(manifest: Manifest, told: list[Any], expected: Any) -> None:
    for number, independent in enumerate(told):
        manifest = noted(manifest, ready(f"NVIDIA L40S (card {number})", independent))
    assert manifest.position_independent is expected
    assert manifest.kernels == ("nvrtc",) and len(manifest.devices) == len(told) and not manifest.warnings


def test_gpus_that_are_not_alike_are_warned_about_once(manifest: Manifest) -> None:
    for number, name in enumerate(("NVIDIA L40S", "NVIDIA H100", "NVIDIA L40S")):
        manifest = noted(manifest, ready(f"{name} (card {number})", True))
    assert manifest.warnings == (
        "the GPUs are not alike (NVIDIA H100, NVIDIA L40S): which of them embeds a cell may change its last bits",
    )


def test_events_are_kept_each_once(manifest: Manifest) -> None:
    told = (Unpinned(0, "a"), Unfused(0, "b"), DecodedOnCpu(1, "c"), PrecisionUnknown("d"))
    for note in (*told, *told):
        manifest = noted(manifest, note)
    assert manifest.notes.unpinned == ({"card": 0, "cause": "a"},)
    assert manifest.notes.unfused == ({"card": 0, "cause": "b"},)
    assert manifest.notes.decoded_on_cpu == ({"card": 1, "cause": "c"},)
    assert manifest.notes.precision_unknown == ({"cause": "d"},)


def test_traffic_is_summed_up_over_starts_and_processes(manifest: Manifest) -> None:
    part = Traffic(requests=7, again=1, bytes=1000, waited=2.0, blocked=0.5)
    once = noted(manifest, part)
    twice = carried_on(manifest, noted(once, part), shards={}, names=(), complete=False)
    assert once.notes.network == part and twice.notes.network == part + part
    assert joined([once, twice, manifest], "out").notes.network == part + part + part
    assert joined([manifest], "out").notes.network is None


@pytest.mark.parametrize("note", [note for note, *_ in NOTES], ids=lambda note: note.name)
def test_every_note_is_in_the_manifest(note: Note) -> None:
    plain = made().as_json()
    assert noted(made(), note).as_json() != plain


def test_a_shard_is_lost_once_however_often_it_is_told() -> None:
    lost = ShardLost("a.parquet", "write", "killed")
    twice = noted(noted(made(), lost), replace(lost))
    assert twice.as_json()["notes"]["lost_shards"] == [lost.as_json()]


def test_the_more_others_save_the_more_seldom_does_each(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that is waited for is time in which nothing is dealt."""
    now, dataset = [0.0], Dataset(tmp_path / "out")
    record = RunRecord(dataset, clock=lambda: now[0])
    saved: list[float] = []
    with dataset.joined():
        dataset.create()
        record.begin(manifest)
        joining = dataset.joining

        def slow() -> AbstractContextManager[None]:
            saved.append(now[0])
            now[0] += 11.0
            return joining()

        monkeypatch.setattr(dataset, "joining", slow)
        while now[0] < 3600.0:
            now[0] += 1.0
            record.save_if_due()
    assert saved[0] == 31.0 and 10 < len(saved) <= 3600 // (20 * 11) + 1
