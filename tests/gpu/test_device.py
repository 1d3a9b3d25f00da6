"""The device of a GPU: against a CPU in fp32, fed in another order, without pinned memory, without enough memory."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtembed.engine import pinned
from mtembed.engine.cpu import CpuDevice
from mtembed.engine.gpu import GpuDevice
from mtembed.engine.precision import relative_l2
from mtembed.messages import DeviceJob
from mtembed.notes import BatchHalved, Unfused, Unpinned, WorkerReady
from mtembed.ring import Ring
from tests.tools.commands import embeddings, run
from tests.tools.shards import default_cells, make_shard
from tests.tools.slots import fill, job, ring_for, slot_of, vectors

MODELS = [("rcf", "S2L1C"), ("rcf", "S1RTC"), ("ssl4eo-s2", "S2L1C"), ("ssl4eo-s1", "S1RTC")]
BOUND = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}


def wanted(model: str, source: Any, **changes: Any) -> DeviceJob:
    return job(model, source, size=64, **{"batch": 10, "cells": 5, "card": 0, **changes})


def embedded(device: GpuDevice, ring: Ring, tasks: list[Any]) -> list[Any]:
    outcomes = [outcome for task in tasks for outcome in device.take(task, slot_of(ring, task))]
    while device.patience_s is not None:
        outcomes += device.idle()
    assert [outcome.error for outcome in outcomes] == [None] * len(tasks)
    return outcomes


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("model", "source"), MODELS)
def test_vectors_are_those_of_a_cpu_in_fp32_and_do_not_depend_on_their_neighbours(
    model: str, source: Any, precision: str
) -> None:
    told = wanted(model, source, precision=precision)
    ring = ring_for(told, side=160)
    tasks = [fill(ring, index, told, 160, 128 + 32 * (index % 2)) for index in range(6)]
    device = GpuDevice(told, ring, torch.device("cuda", 0))
    embedded(device, ring, tasks)
    first = [vectors(ring, task, told) for task in tasks]
    random.Random(1).shuffle(shuffled := list(tasks))
    embedded(device, ring, shuffled)
    again = [vectors(ring, task, told) for task in tasks]
    (ready,) = [note for note in device.ready if isinstance(note, WorkerReady)]
    if ready.position_independent:
        assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not [note for note in device.ready if isinstance(note, Unfused | Unpinned)]
    device.close()
    golden = CpuDevice(replace(told, precision="fp32", card=None))
    for task, found in zip(tasks, first, strict=True):
        assert golden.take(task, slot_of(ring, task))[0].error is None
        assert relative_l2(found, vectors(ring, task, told)).max() < BOUND[precision]
    ring.close()


def test_a_ring_that_cannot_be_pinned_is_slower_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver refuses a length of 0; its error must not come back at the next launch of a kernel."""
    told = wanted("rcf", "S2L1C")
    ring = ring_for(told, side=160)
    tasks = [fill(ring, index, told, 160, 160) for index in range(3)]
    device = GpuDevice(told, ring, torch.device("cuda", 0))
    assert device.ring.slots == ring.shape.slots and not device.ring.problem
    embedded(device, ring, tasks)
    expected = [vectors(ring, task, told) for task in tasks]
    device.close()
    right = pinned._registered
    monkeypatch.setattr(pinned, "_registered", lambda address, size: right(address, 0))
    device = GpuDevice(told, ring, torch.device("cuda", 0))
    library = pinned.runtime_library()
    assert library is not None and library.cudaPeekAtLastError() == 0
    assert [note for note in device.ready if isinstance(note, Unpinned)]
    embedded(device, ring, tasks)
    assert all(np.array_equal(vectors(ring, task, told), e) for task, e in zip(tasks, expected, strict=True))
    device.close()
    ring.close()


def test_too_little_memory_halves_the_batch() -> None:
    """A batch that no card holds is halved until it fits."""
    told = wanted("rcf", "S2L1C", size=224, batch=1 << 17)
    ring = ring_for(told, side=224)
    device = GpuDevice(told, ring, torch.device("cuda", 0))
    halved = [note for note in device.ready if isinstance(note, BatchHalved)]
    assert halved and device.network.batch == halved[-1].after
    embedded(device, ring, [fill(ring, 0, told, 224, 224)])
    device.close()
    ring.close()


def test_waiting_for_a_gpu_takes_no_core() -> None:
    import time

    told = wanted("ssl4eo-s2", "S2L1C", size=224, batch=256, precision="fp32")
    ring = ring_for(told, side=224)
    device = GpuDevice(told, ring, torch.device("cuda", 0))
    begin, end = device.streams.timer(), device.streams.timer()
    with device.streams.on(device.streams.compute):
        begin.record()
        for _ in range(20):
            device.network.embed_input()
        end.record()
    spent = time.process_time()
    end.synchronize()
    assert (time.process_time() - spent) * 1e3 < 0.5 * begin.elapsed_time(end)
    device.close()
    ring.close()


# -- runs -------------------------------------------------------------------------------------------------------


def archive(folder: Path) -> Path:
    for number in range(3):
        make_shard(folder / f"images/part_{number}.parquet", default_cells(15)[5 * number : 5 * number + 5], "S1RTC")
    return folder


def test_a_killed_worker_costs_no_cell_and_no_byte(tmp_path: Path) -> None:
    plain = ["--model", "rcf", "--fragment-size", "32", "--batch", "20", "--gpus", "0", str(archive(tmp_path / "in"))]
    code, _, err = run([*plain, "--output", str(tmp_path / "golden")])
    assert code == 0, err
    manifest = json.loads((tmp_path / "golden/manifest.json").read_text())
    assert manifest["kernels"] and "numba" not in manifest["kernels"]
    fault = {"kind": "device", "function": "mtembed.engine.gpu:GpuDevice._start", "call": 2, "action": "kill"}
    code, _, err = run([*plain, "--output", str(tmp_path / "out")], [{**fault, "once": str(tmp_path / "once")}])
    assert code == 0, err
    assert (tmp_path / "once").exists() and embeddings(tmp_path / "out") == embeddings(tmp_path / "golden")
