"""GPUs: batches across cells on one device, several devices in a run, and what happens when they fail.

The device is the CPU, through the code that a GPU runs (``MTEMBED_CPU_CARDS``).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mtembed import machine
from mtembed.engine import gpu
from mtembed.engine.cpu import CpuDevice
from mtembed.engine.gpu import IN_FLIGHT, GpuDevice
from mtembed.engine.gpu_network import GpuNetwork
from mtembed.engine.precision import relative_l2
from mtembed.engine.streams import HostEvent, Streams
from mtembed.messages import DeviceJob, EmbedTask
from mtembed.notes import BatchHalved, Note, PrecisionCheck, PrecisionUnknown, Unfused
from mtembed.ring import Ring
from tests.tools.commands import embeddings, run
from tests.tools.shards import default_cells, make_shard
from tests.tools.slots import fill, job, ring_for, slot_of, vectors

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def embed_all(device: GpuDevice, ring: Ring, tasks: Sequence[EmbedTask]) -> list[Note]:
    """Give all cells, then wait until all are answered; returns the notes."""
    outcomes = [outcome for task in tasks for outcome in device.take(task, slot_of(ring, task))]
    while device.patience_s is not None:
        outcomes += device.idle()
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert [o.error for o in outcomes] == [None] * len(tasks)
    return [note for o in outcomes for note in o.notes]


def by_gpu(ring: Ring, wanted: DeviceJob, tasks: Sequence[EmbedTask]) -> list[np.ndarray]:
    embed_all(GpuDevice(wanted, ring, CPU), ring, tasks)
    return [vectors(ring, task, wanted) for task in tasks]


def by_cpu(ring: Ring, wanted: DeviceJob, tasks: Sequence[EmbedTask]) -> list[np.ndarray]:
    device = CpuDevice(wanted)
    for task in tasks:
        assert device.take(task, slot_of(ring, task))[0].error is None
    return [vectors(ring, task, wanted) for task in tasks]


@pytest.mark.parametrize(("model", "source"), [("rcf", "S2L1C"), ("rcf", "S1RTC"), ("ssl4eo-s1", "S1RTC")])
def test_a_gpu_computes_what_the_cpu_device_computes(model: str, source: Any) -> None:
    """Also for cells of other sizes, cells larger than a batch, and a last batch that is not full."""
    wanted = job(model, source, batch=6)
    ring = ring_for(wanted)
    sides = ((96, 96), (36, 96), (60, 60), (36, 36), (96, 36))
    tasks = [fill(ring, i, wanted, *sides) for i, sides in enumerate(sides)]
    expected = by_cpu(ring, wanted, tasks)
    for found, golden in zip(by_gpu(ring, wanted, tasks), expected, strict=True):
        assert relative_l2(found, golden).max() < 1e-5


@pytest.mark.parametrize(("model", "source", "precision"), [("rcf", "S2L1C", "fp32"), ("ssl4eo-s1", "S1RTC", "bf16")])
def test_a_cell_does_not_depend_on_the_cells_beside_it(model: str, source: Any, precision: str) -> None:
    wanted = job(model, source, batch=6, precision=precision)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted, 60, 96) for i in range(5)]
    device = GpuDevice(wanted, ring, CPU)
    embed_all(device, ring, tasks)
    together = [vectors(ring, task, wanted) for task in tasks]
    random.Random(1).shuffle(shuffled := list(tasks))
    embed_all(device, ring, shuffled)
    assert np.array_equal(together, [vectors(ring, task, wanted) for task in tasks])
    embed_all(device, ring, tasks[3:4])
    assert np.array_equal(together[3], vectors(ring, tasks[3], wanted))


def test_the_milliseconds_of_a_batch_are_shared_by_its_fragments() -> None:
    wanted = job("rcf", "S2L1C", batch=7)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted, 60, 60) for i in range(4)]
    embed_all(GpuDevice(wanted, ring, CPU), ring, tasks)
    for task in tasks:
        timing = task.timing
        assert min(timing.upload, timing.preprocess, timing.forward, timing.download) > 0


class LateEvent(HostEvent):
    """Reached only when someone waits for it, as on a device that is far behind."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = True

    def record(self) -> None:
        super().record()
        self.reached = False

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.reached = True


class LateStreams(Streams):
    def timer(self) -> LateEvent:
        return LateEvent()


def test_three_batches_are_in_flight_and_a_cell_waits_for_its_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Streams", LateStreams)
    wanted = job("rcf", "S1RTC", batch=4)
    ring = ring_for(wanted)
    device = GpuDevice(wanted, ring, CPU)
    tasks = [fill(ring, i, wanted, 60, 60) for i in range(5)]  # four fragments each
    for task in tasks[:IN_FLIGHT]:
        assert device.take(task, slot_of(ring, task)) == []
    assert np.isnan(vectors(ring, tasks[0], wanted)).all(), "vectors come with the answer, not before"
    assert device.idle() == []
    assert [o.task for o in device.take(tasks[3], slot_of(ring, tasks[3]))] == tasks[:1]
    assert np.isfinite(vectors(ring, tasks[0], wanted)).all()
    assert np.isnan(vectors(ring, tasks[1], wanted)).all()


def test_a_batch_that_is_not_full_waits_while_the_device_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Streams", LateStreams)
    wanted = job("rcf", "S1RTC", batch=4)
    ring = ring_for(wanted)
    device = GpuDevice(wanted, ring, CPU)
    full, half = fill(ring, 0, wanted, 60, 60), fill(ring, 1, wanted, 32, 60)
    device.take(full, slot_of(ring, full))
    device.take(half, slot_of(ring, half))
    assert device.idle() == [] and device.filling is not None
    device.in_flight[0].wait()
    assert [o.task for o in device.idle()] == [full]
    assert device.filling is None and len(device.in_flight) == 1
    device.in_flight[0].wait()
    assert [o.task for o in device.idle()] == [half]
    assert device.patience_s is None


def test_bands_that_do_not_fit_any_more_start_the_batch() -> None:
    wanted = job("rcf", "S2L1C", batch=64, cells=1)  # room for the bands of one largest cell
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted) for i in range(6)]
    expected = by_cpu(ring, wanted, tasks)
    for found, golden in zip(by_gpu(ring, wanted, tasks), expected, strict=True):
        assert relative_l2(found, golden).max() < 1e-5


class Fragile(torch.nn.Module):
    """A network that divides by the mean of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1 / x.float().mean((1, 2, 3)))[:, None].expand(-1, 512)


def test_a_cell_without_finite_vectors_fails_alone() -> None:
    wanted = job("rcf", "S2L1C", batch=6)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted, 60, 60) for i in range(3)]
    slot_of(ring, tasks[1]).view[tasks[1].decoded.planes[0].offset :] = 0
    device = GpuDevice(wanted, ring, CPU)
    device.network.network = Fragile()
    outcomes = [o for task in tasks for o in device.take(task, slot_of(ring, task))] + device.idle()
    errors = {o.task.key: str(o.error or "") for o in outcomes}
    assert [bool(errors[task.key]) for task in tasks] == [False, True, False]
    assert "not finite" in errors[tasks[1].key]


def test_the_error_of_16_bit_is_measured_once() -> None:
    wanted = job("ssl4eo-s1", "S1RTC", batch=6, precision="bf16")
    ring = ring_for(wanted)
    device = GpuDevice(wanted, ring, CPU)
    (check,) = embed_all(device, ring, [replace(fill(ring, 0, wanted), check=True)])
    assert isinstance(check, PrecisionCheck) and check.precision == "bf16" and check.fragments == 6
    assert 0 < check.median_relative_l2 <= check.worst_relative_l2 < 0.05
    assert embed_all(device, ring, [fill(ring, 1, wanted)]) == []


class Greedy(torch.nn.Module):
    """A network for which there is no memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore lines")


def test_an_error_of_16_bit_that_cannot_be_measured_costs_nothing() -> None:
    wanted = job("ssl4eo-s1", "S1RTC", batch=6, precision="bf16")
    ring = ring_for(wanted)
    device = GpuDevice(wanted, ring, CPU)
    assert device.check.golden is not None
    device.check.golden = Greedy()
    (note,) = embed_all(device, ring, [replace(fill(ring, 0, wanted), check=True)])
    assert note == PrecisionUnknown("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    assert embed_all(device, ring, [fill(ring, 1, wanted)]) == [] and device.check.golden is None


class Unsteady(GpuNetwork):
    """Joined operators that do not run here, as on a card that cuDNN has no such code for."""

    def embed(self, fragments: torch.Tensor) -> torch.Tensor:
        if self.fused:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nmore lines")
        return super().embed(fragments)


def test_where_joined_operators_do_not_run_the_plain_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GpuNetwork", Unsteady)
    wanted = job("ssl4eo-s1", "S1RTC", batch=4, card=0)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted, 60, 60) for i in range(2)]
    device = GpuDevice(wanted, ring, CPU)
    assert device.ready[1:] == (Unfused(0, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),)
    embed_all(device, ring, tasks)
    found = [vectors(ring, task, wanted) for task in tasks]
    for one, golden in zip(found, by_cpu(ring, wanted, tasks), strict=True):
        assert relative_l2(one, golden).max() < 1e-5


# -- memory -----------------------------------------------------------------------------------------------------


class Small(GpuNetwork):
    """Has no memory for more than ``most`` fragments."""

    most = 3

    def embed(self, fragments: torch.Tensor) -> torch.Tensor:
        if len(fragments) > self.most:
            raise torch.cuda.OutOfMemoryError("simulated")
        return super().embed(fragments)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GpuNetwork", Small)


def test_too_large_a_batch_is_halved_until_it_fits(little_memory: None) -> None:
    wanted = job("rcf", "S2L1C", batch=14, card=0)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted) for i in range(2)]
    device = GpuDevice(wanted, ring, CPU)
    assert device.network.batch == 3
    assert device.ready[1:] == (BatchHalved(0, 14, 7), BatchHalved(0, 7, 3))
    assert embed_all(device, ring, tasks) == []
    found = [vectors(ring, task, wanted) for task in tasks]
    assert np.allclose(found, by_cpu(ring, wanted, tasks), rtol=1e-5)


@pytest.mark.parametrize("batch", [8, 7])
def test_memory_that_ends_later_halves_the_step_and_the_run_goes_on(
    batch: int, little_memory: None, monkeypatch: Any
) -> None:
    wanted = job("rcf", "S2L1C", batch=batch, card=0)
    ring = ring_for(wanted)
    tasks = [fill(ring, i, wanted) for i in range(2)]
    monkeypatch.setattr(Small, "most", batch)
    device = GpuDevice(wanted, ring, CPU)
    monkeypatch.setattr(Small, "most", 3)
    notes = embed_all(device, ring, tasks)
    assert notes == [BatchHalved(0, *sizes) for sizes in ([(8, 4), (4, 2)] if batch == 8 else [(7, 3)])]
    assert device.network.step <= 3 and device.network.batch == batch
    found = [vectors(ring, task, wanted) for task in tasks]
    assert np.allclose(found, by_cpu(ring, wanted, tasks), rtol=1e-5)


def test_no_room_for_one_fragment_is_an_error(little_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "most", 0)
    wanted = job("rcf", "S2L1C", batch=2)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="single fragment"):
        GpuDevice(wanted, ring_for(wanted), CPU)


# -- several cards ----------------------------------------------------------------------------------------------


def test_every_worker_sees_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpu_environment(1)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8c5f")
    assert [machine.gpu_environment(i)["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["3", "GPU-8c5f"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of five cells."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(3):
        make_shard(folder / f"images/part_{number}.parquet", default_cells(15)[5 * number : 5 * number + 5], "S1RTC")
    return folder


@pytest.fixture(scope="module")
def two_cards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTEMBED_CPU_CARDS", "2")
        yield


def command(archive: Path, output: Path, *more: str) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), "--batch", "20", *more, str(archive)]


@pytest.fixture(scope="module")
def expected(archive: Path, two_cards: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts that two cards make when nothing disturbs them."""
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(archive, output, "--gpus", "0,1"))
    assert code == 0, err
    used = {d for part in (output / "timings").iterdir() for d in pq.read_table(part)["device"].to_pylist()}
    assert used == {"cpu:0", "cpu:1"}
    manifest = json.loads((output / "manifest.json").read_text())
    assert len(manifest["devices"]) == 2 and manifest["kernels"] == ["numba"]
    assert manifest["position_independent"] is True
    assert not [warning for warning in manifest["warnings"] if "not alike" in warning]
    return embeddings(output)


def test_cards_and_the_cpu_agree(archive: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    code, _, err = run(command(archive, tmp_path / "out", "--device", "cpu"))
    assert code == 0, err
    for name in expected:
        found = pq.read_table(tmp_path / "out/embeddings" / name)["embedding"].combine_chunks().flatten().to_numpy()
        (tmp_path / name).write_bytes(expected[name])
        golden = pq.read_table(tmp_path / name)["embedding"].combine_chunks().flatten().to_numpy()
        assert np.abs(found - golden).max() < 1e-5 * np.abs(golden).max()


@pytest.mark.parametrize(
    ("function", "call"),
    [("mtembed.engine.gpu_network:GpuNetwork.fit", 1), ("mtembed.engine.gpu:GpuDevice._start", 1)],
    ids=["at its start", "at its first batch"],
)
def test_a_card_that_keeps_failing_is_dropped(
    archive: Path, expected: dict[str, bytes], tmp_path: Path, function: str, call: int
) -> None:
    fault = {"kind": "device", "card": "1", "function": function, "call": call, "action": "cuda-error"}
    code, _, err = run(command(archive, tmp_path / "out"), [fault])
    assert code == 0, err
    assert embeddings(tmp_path / "out") == expected
    assert "lane 1 is given up" in err
    dropped = json.loads((tmp_path / "out/manifest.json").read_text())["notes"]["dropped_cards"]
    assert [d["lane"] for d in dropped] == [1]


def test_the_last_card_ends_the_run(archive: Path, two_cards: None, tmp_path: Path) -> None:
    fault = {
        "kind": "device",
        "function": "mtembed.engine.gpu_network:GpuNetwork.fit",
        "call": 1,
        "action": "cuda-error",
    }
    code, _, err = run(command(archive, tmp_path / "out"), [fault])
    assert code == 1 and "device workers cannot do their work here" in err and "CUDA error" in err


def test_cells_in_flight_survive_the_death_of_their_worker(
    archive: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """They come back one at a time and give the same bytes; and one card may be named twice."""
    once = tmp_path / "once"
    fault = {"kind": "device", "function": "mtembed.engine.gpu:GpuDevice._start", "call": 2, "action": "kill"}
    code, _, err = run(command(archive, tmp_path / "out", "--gpus", "0,0"), [{**fault, "once": str(once)}])
    assert code == 0, err
    assert once.exists()
    assert embeddings(tmp_path / "out") == expected


def test_a_halved_batch_is_told_and_recorded(archive: Path, two_cards: None, tmp_path: Path) -> None:
    network = "mtembed.engine.gpu_network:GpuNetwork"
    faults = [  # at the start, in the trial of places, with the first cells
        {"card": "0", "function": f"{network}.embed", "call": 1, "action": "device-memory"},
        {"card": "0", "function": f"{network}.embed", "call": 3, "action": "device-memory"},
        {"card": "1", "function": f"{network}._in_steps", "call": 8, "action": "device-memory"},
    ]
    code, _, err = run(command(archive, tmp_path / "out"), [{"kind": "device", **fault} for fault in faults])
    assert code == 0, err
    halved = json.loads((tmp_path / "out/manifest.json").read_text())["notes"]["batch_halved"]
    assert sorted((h["card"], h["from"], h["to"]) for h in halved) == [(0, 10, 5), (0, 20, 10), (1, 20, 10)]
    assert err.count("10 instead of 20 fragments") == 2


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_cell_with_more_vectors_than_its_slot_has_room_for_fails_alone(kind: str) -> None:
    wanted = job("rcf", "S1RTC", batch=4)
    ring = ring_for(wanted, side=60)  # room for four vectors, and more than enough for the pixels
    small, large = fill(ring, 0, wanted, 60, 60), fill(ring, 1, wanted, 32, 60)
    places = np.array([(0, col) for col in range(5)], np.int32)
    large = replace(large, decoded=replace(large.decoded, record=replace(large.decoded.record, offsets=places)))
    device: Any = GpuDevice(wanted, ring, CPU) if kind == "gpu" else CpuDevice(wanted)
    outcomes = [o for task in (small, large) for o in device.take(task, slot_of(ring, task))] + device.idle()
    errors = {o.task.key: str(o.error or "") for o in outcomes}
    assert errors[small.key] == "" and "5 vectors of 512 values do not fit" in errors[large.key]


def test_no_kernel_that_works_is_one_sentence_and_blames_no_cell(
    archive: Path, two_cards: None, tmp_path: Path
) -> None:
    fault = {"kind": "device", "function": "mtembed.engine.cutter:Cutter.__call__", "action": "disk-full"}
    code, _, err = run(command(archive, tmp_path / "out"), [fault])
    assert code == 1 and "no kernel that cuts fragments runs on this GPU" in err and "Traceback" not in err
    assert err.count("No space left on device") == 1
    assert not list((tmp_path / "out").rglob("*.parquet"))
    failures = tmp_path / "out/failures.jsonl"
    assert not failures.exists() or not failures.read_text()
