"""What a model's record and the machine decide, without a model's name or family being looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtembed import machine, models
from mtembed.config import RunConfig
from mtembed.dataset.settings import automatic_batch, automatic_precision, check_openvino, cpu_layout
from mtembed.errors import UsageError


def config(**options: Any) -> RunConfig:
    return RunConfig(("x",), model="rcf", **options)


@pytest.mark.parametrize(("half", "expected"), [("float16", "fp16"), ("bfloat16", "bf16"), (None, "fp32")])
@pytest.mark.parametrize("name", ["ssl4eo-s2", "dinov2"])
def test_the_16_bit_type_on_a_gpu_is_the_models(name: str, half: Any, expected: str) -> None:
    assert automatic_precision(replace(models.get(name), half=half), "cuda") == expected


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_on_a_cpu_it_is_bfloat16_where_that_is_fast(fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fast_bf16", lambda: fast)
    assert automatic_precision(models.get("ssl4eo-s2"), "cpu") == expected
    assert automatic_precision(models.get("rcf"), "cpu") == "fp32"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ssl4eo-s2", {}, 500),  # 25 fragments of 224 px in a cell of Core
        ("siglip", {}, 63),  # 9 of 384 px
        ("ssl4eo-s2", {"fragment_size": 1068}, 512),
        ("ssl4eo-s2", {"fragment_size": 2000}, 512),
        ("ssl4eo-s2", {"fragment_size": 32}, 512),  # a cell has more fragments than a batch
    ],
)
def test_a_gpus_batch_holds_whole_cells(name: str, options: dict[str, Any], expected: int) -> None:
    assert automatic_batch(models.get(name), "cuda", config(**options)) == expected
    assert automatic_batch(models.get(name), "cpu", config(**options)) == models.get(name).cpu_batch


def test_a_share_of_the_machine_is_a_share_of_its_cores_and_memory() -> None:
    whole, half = cpu_layout(models.get("rcf")), cpu_layout(models.get("rcf"), 0.5)
    assert half[0] * half[1] <= max(1, (whole[0] * whole[1] + 1) // 2)
    assert machine.cores(0.01) == 1 and machine.memory_bytes(0.5) == machine.memory_bytes() // 2
    with pytest.raises(UsageError, match="--share-of-machine"):
        config(share_of_machine=0.0)


def test_an_engine_that_a_model_does_not_name_is_refused() -> None:
    with pytest.raises(UsageError, match="dinov2 has no OpenVINO version"):
        check_openvino(replace(models.get("dinov2"), engines=("torch",)), "fp32")
