"""The kernel of a GPU is chosen by trying: by its bits, before any cell comes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtembed import models
from mtembed.engine.gpu_kernel import Trial, working_kernel
from mtembed.errors import WorkerError
from mtembed.kernels import fragment_numba, fragment_numpy
from mtembed.kernels.select import GPU_BACKENDS
from mtembed.sources import SOURCES

CPU = torch.device("cpu")
CASES = [
    ("ssl4eo-s2", "S2L1C", "fp16"),
    ("dinov2", "S2L2A", "bf16"),
    ("rcf", "S2L2A", "fp32"),
    ("ssl4eo-s1", "S1RTC", "fp16"),
]


def trial(model: str, source: Any, precision: str) -> Trial:
    spec = models.get(model)
    bands, dtype = len(spec.bands_for(source)), SOURCES[source].dtype
    return Trial.of(spec.normalisation_for(source), bands, dtype, precision, CPU)


def missing(*arguments: Any) -> None:
    raise ImportError("libnvrtc.so.13: cannot open shared object file\nand more")


def unwritable(*arguments: Any) -> None:
    raise PermissionError(13, "Permission denied", "/home/x/.cupy/kernel_cache")


def out_of_memory(*arguments: Any) -> None:
    raise RuntimeError("CUDA error: out of memory")


KERNELS = {
    "right": fragment_numba.fragment,
    "definition": fragment_numpy.fragment,
    "missing": missing,
    "unwritable": unwritable,
    "full": out_of_memory,
}


@pytest.mark.parametrize(("model", "source", "precision"), CASES)
def test_a_right_kernel_passes_and_the_first_is_taken(model: str, source: Any, precision: str) -> None:
    case = trial(model, source, precision)
    assert case.problem(fragment_numba.fragment) == ""
    assert working_kernel(case, ("definition", "right"), KERNELS.__getitem__) is fragment_numpy.fragment
    assert working_kernel(case, ("missing", "unwritable", "right"), KERNELS.__getitem__) is fragment_numba.fragment


@pytest.mark.parametrize(("model", "source", "precision"), CASES[:3])
def test_one_wrong_bit_is_found_out(model: str, source: Any, precision: str) -> None:
    case = trial(model, source, precision)

    def wrong(*arguments: Any) -> None:
        fragment_numba.fragment(*arguments)
        bits = arguments[-1].view("u4" if precision == "fp32" else "u2")
        bits[1, 1, 3, 5] ^= 1

    assert case.problem(wrong) == "its numbers are not those of the definition"


def test_decibels_may_be_one_unit_off_and_no_more() -> None:
    case = trial("ssl4eo-s1", "S1RTC", "fp32")

    def shifted(by: float) -> str:
        def kernel(*arguments: Any) -> None:
            fragment_numba.fragment(*arguments)
            arguments[-1][...] += by

        return case.problem(kernel)

    assert shifted(5e-8) == "" and shifted(1e-5) != ""


def test_none_that_works_is_one_sentence_with_all_reasons() -> None:
    with pytest.raises(WorkerError) as caught:
        working_kernel(trial(*CASES[0]), ("missing", "unwritable"), KERNELS.__getitem__)
    words = str(caught.value)
    assert "\n" not in words and "missing: libnvrtc.so.13: cannot open" in words and "unwritable: [Errno 13]" in words
    assert "--device cpu" in words


def test_a_lack_of_memory_is_not_taken_for_a_kernel_that_fails() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        working_kernel(trial(*CASES[0]), ("full", "right"), KERNELS.__getitem__)


def test_without_a_gpu_every_backend_says_why_it_does_not_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(WorkerError) as caught:
        working_kernel(trial(*CASES[0]))
    assert all(f"{name}: " in str(caught.value) for name in GPU_BACKENDS)
