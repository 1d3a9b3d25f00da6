"""In which types networks compute, and that float32 means float32."""

from __future__ import annotations

import torch

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def exact_fp32() -> None:
    """float32 means float32 (no TF32), sums of 16-bit products stay in float32, and no race chooses algorithms.

    A race would let its winner decide over the bits.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
