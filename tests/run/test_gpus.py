"""Which GPUs a run uses: what the system shows, what torch can do with it, what a user hears of the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtembed import machine
from mtembed.config import RunConfig
from mtembed.dataset.settings import resolve_device
from mtembed.engine.usable import has_code, usable_gpus
from mtembed.errors import UsageError
from mtembed.machine import Gpus
from mtembed.run.gpus import answer, told
from tests.tools.commands import run
from tests.tools.shards import make_shard

BROKEN = Gpus((), "the driver is too old")
no_gpu_here = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPU can be used")


def config(**options: Any) -> RunConfig:
    return RunConfig(("x",), model="rcf", **options)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("", 0),
        ("0,1", 2),
        ("1", 1),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("GPU-8c5f, MIG-1a/3/0", 2),
        ("void", 0),
    ],
)
def test_names_are_counted_as_cuda_reads_them(names: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert machine.visible_gpus() == tuple(range(count)) and machine.shows_gpus() == bool(count)


def test_slices_of_a_gpu_are_each_shown_to_their_own_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert machine.mig_slices() == 2
    assert [machine.gpu_environment(i)["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["MIG-a", "MIG-b"]


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 9), ["sm_80", "sm_86", "sm_90"], True),
        ((9, 0), ["sm_80", "sm_90a", "sm_90"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_120"], False),
        ((8, 0), ["sm_75", "sm_86"], False),
        ((12, 1), ["sm_90", "compute_90"], True),
    ],
)
def test_code_for_a_card(capability: tuple[int, int], architectures: list[str], expected: bool) -> None:
    assert has_code(capability, architectures) is expected


def test_auto_falls_back_and_names_the_cause_where_a_gpu_was_asked_for() -> None:
    assert resolve_device(config(), None, BROKEN) == ("cpu", "torch")
    assert resolve_device(config(), None, Gpus((0,))) == ("cuda", "torch")
    assert "the driver is too old" in told(BROKEN, "cpu")
    assert told(BROKEN, "cuda") == told(Gpus(()), "cpu") == told(Gpus((0,)), "cpu") == ""
    for options in ({"gpus": (0,)}, {"device": "cuda"}):
        with pytest.raises(UsageError, match=r"no GPU can be used \(the driver is too old\)"):
            resolve_device(config(**options), None, BROKEN)
    with pytest.raises(UsageError, match=r"--gpus 2 cannot be used \(no code for it\): choose among 0, 1"):
        resolve_device(config(gpus=(2,)), None, Gpus((0, 1), "no code for it"))


@pytest.mark.parametrize(
    ("status", "out", "err", "expected"),
    [
        (0, 'a warning\n{"numbers": [0, 2], "problem": ""}\n', "", Gpus((0, 2))),
        (-11, "", "", Gpus((), "asking torch for a GPU ended with status -11")),
        (1, "", "Traceback\nImportError: x", Gpus((), "asking torch for a GPU ended with status 1 (ImportError: x)")),
        (0, "{}", "", Gpus((), "asking torch for a GPU ended with status 0")),
    ],
)
def test_whatever_the_process_says_or_does_is_an_answer(status: int, out: str, err: str, expected: Gpus) -> None:
    assert answer(status, out, err) == expected


@no_gpu_here
def test_torch_says_why_it_can_use_none() -> None:
    found = usable_gpus()
    assert found.numbers == () and found.problem and "\n" not in found.problem


@no_gpu_here
def test_a_gpu_that_torch_cannot_use_is_left_alone_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    shard = make_shard(tmp_path / "in/images/part.parquet", 1, "S1RTC").path
    plain = ["--model", "rcf", "--fragment-size", "32", "--output", str(tmp_path / "out"), str(shard)]
    code, _, err = run([*plain, "--gpus", "0"])
    assert code == 2 and "no GPU can be used (" in err and "Traceback" not in err
    assert not (tmp_path / "out/embeddings").exists()
    code, _, err = run(plain)
    assert code == 0 and "no GPU can be used, the CPU computes: " in err
