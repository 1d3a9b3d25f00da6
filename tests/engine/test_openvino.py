"""``--engine openvino``: the vectors of torch, also for a batch that is not full; clear words where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtembed.config import RunConfig
from mtembed.dataset.settings import resolve_device
from mtembed.errors import UsageError
from mtembed.machine import Gpus
from mtembed.run.embed import embed
from tests.tools.commands import run
from tests.tools.manifests import settings

openvino = pytest.importorskip("openvino")
SAMPLE = Path(__file__).resolve().parents[2] / "mtembed/sample/Core-S1RTC/images/part_00001.parquet"


def vectors(folder: Path) -> np.ndarray:
    return np.array(pq.read_table(folder / "embeddings/part_00001.parquet")["embedding"].to_pylist())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_its_vectors_are_those_of_torch(tmp_path: Path) -> None:
    """25 fragments in batches of 8 leave one batch that is not full."""
    named = {"model": "ssl4eo-s1", "weights": "random:1", "precision": "fp32"}
    for engine in ("torch", "openvino"):
        assert embed(SAMPLE, engine=engine, output=str(tmp_path / engine), **named).exit_code == 0
    golden, found = vectors(tmp_path / "torch"), vectors(tmp_path / "openvino")
    error = np.linalg.norm(found - golden, axis=1) / np.linalg.norm(golden, axis=1)
    assert found.shape == (25, 2048) and error.max() < 1e-4
    manifest = json.loads((tmp_path / "openvino/manifest.json").read_text())
    assert manifest["settings"]["engine"] == "openvino"
    assert manifest["versions"]["openvino"] == openvino.__version__ and manifest["kernels"] == ["numba"]
    check = manifest["notes"]["precision_check"]
    assert check["engine"] == "openvino" and check["worst_relative_l2"] < 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "rcf"], "no OpenVINO version"),
        (["--model", "ssl4eo-s1", "--weights", "random:1", "--precision", "fp16"], "fp32 or bf16"),
        (["--model", "ssl4eo-s1", "--weights", "random:1", "--device", "cuda"], "computes on the CPU"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    code, _, err = run([*options, "--engine", "openvino", "--output", str(tmp_path / "out"), str(SAMPLE)])
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "out/embeddings").exists() or not list((tmp_path / "out/embeddings").iterdir())


def test_it_is_used_only_when_asked_for() -> None:
    assert resolve_device(RunConfig(("x",), model="rcf", device="cpu"), None, Gpus(())) == ("cpu", "torch")
    earlier = settings(engine="openvino")
    assert resolve_device(RunConfig(("x",), model="rcf", device="cpu"), earlier, Gpus(())) == ("cpu", "openvino")
    with pytest.raises(UsageError, match="--decoder gpu needs a GPU"):
        resolve_device(RunConfig(("x",), model="rcf", device="cpu", decoder="gpu"), None, Gpus(()))
