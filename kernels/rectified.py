"""Random convolution features on a GPU: ``rectified.cu``, the convolution and its two sums in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtembed.kernels.driver import address, current, function, launch, torch_module

FILE = "rectified.cu"
STRIP = 28  # rows that one warp sums up
GROUP = 128  # filters of one warp
THREADS = 256  # of the second kernel


def rectified_means(x: Any, weights: Any, bias: float) -> Any:
    """Means over a fragment's positions of ReLU(c) and ReLU(-c) with c = filter * x + bias: float32 [n, 2 F].

    ``x`` is a float32 tensor [n, room, size, size] on the device in channels-last memory, of which the first C channels
    count; ``weights`` float32 [3, 3, C, F] with F a multiple of 128.  Queued on torch's current stream.
    """
    torch = torch_module()
    stream, capability = current(torch)
    n, strips, features = len(x), strip_count(x.shape[2]), weights.shape[3]
    partial = torch.empty((n, strips, 2 * features), device=x.device)
    means = torch.empty((n, 2 * features), device=x.device)
    first, second = (function(FILE, name, capability) for name in ("rectified_strips", "strip_means"))
    launch(first, (n, strips, features // GROUP), 32, strip_arguments(x, weights, bias, partial), stream)
    blocks = -(-2 * features // THREADS)
    launch(second, (n, blocks), THREADS, mean_arguments(partial, x.shape[2], means), stream)
    return means


def strip_count(size: int) -> int:
    """Strips of a fragment of ``size`` px."""
    return -(-(size - 2) // STRIP)


def strip_arguments(x: Any, weights: Any, bias: float, partial: Any) -> list[np.generic]:
    """In the order of the kernel's parameters."""
    _, room, size, _ = x.shape
    channels, features = weights.shape[2:]
    sizes = (size, channels, room, features, STRIP)
    return [address(x), address(weights), np.float32(bias), *map(np.int32, sizes), address(partial)]


def mean_arguments(partial: Any, size: int, means: Any) -> list[np.generic]:
    """In the order of the kernel's parameters."""
    _, strips, values = partial.shape
    counts = np.int32(strips), np.int32(values)
    return [address(partial), *counts, np.float32((size - 2) ** 2), address(means)]
