"""Which errors mean that a device has no memory left."""

from __future__ import annotations

import pytest
import torch

from mtembed.engine.memory import is_out_of_memory, reason


class OutOfMemoryError(Exception):
    """CuPy's, by name."""


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUDA_ERROR_OUT_OF_MEMORY"),
        MemoryError(),
        OutOfMemoryError("Out of memory allocating 512 bytes"),
    ],
)
def test_every_kind_of_lack_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        ValueError("out of memory"),
        ImportError("libnvrtc.so.13"),
    ],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_reason_is_one_line() -> None:
    assert reason(RuntimeError("CUDA error: misaligned address\nCompile with `TORCH_USE_CUDA_DSA`")) == (
        "CUDA error: misaligned address"
    )
    assert reason(KeyError()) == "KeyError"
