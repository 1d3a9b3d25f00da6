"""Whether an error of CUDA's libraries means that the device has no memory left, and the first line of any error."""

from __future__ import annotations

import torch

SIGNS = (
    "out of memory",
    "OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch, the CUDA runtime and driver, cuDNN, cuBLAS and CuPy write when an allocation fails."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether less work at a time could help."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    named = any("OutOfMemory" in kind.__name__ for kind in type(error).__mro__)  # CuPy's
    return named or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS))


def reason(error: BaseException) -> str:
    """The first line of an error, or its type where it has no words."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
