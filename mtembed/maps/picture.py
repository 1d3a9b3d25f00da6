"""From numbers to what people look at: pixels of a satellite with contrast, vectors as colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

STRETCH = (2.0, 98.0)  # percentiles of an image that become black and white


def stretched(values: npt.NDArray[Any]) -> FloatArray:
    """Values between the 2nd and the 98th percentile brought to 0..1, float32, a little brightened."""
    low, high = np.percentile(values, STRETCH)
    return np.asarray(np.clip((values - low) / max(high - low, 1e-9), 0, 1) ** 0.8, np.float32)


def colours_of(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The first three principal components of float64 [n, D], each over its own range: [n, 3] in 0..1.

    Components that do not exist (fewer than four vectors, or all alike) are 0.5.
    """
    centred = vectors - vectors.mean(axis=0)
    left, scale, axes = np.linalg.svd(centred, full_matrices=False)
    colours = np.full((len(vectors), 3), 0.5)
    for i in range(min(3, len(scale))):
        if scale[i] <= 1e-9 * max(1.0, float(np.abs(vectors).max())):
            continue
        sign = np.sign(axes[i, np.abs(axes[i]).argmax()])  # the SVD leaves it open
        score = left[:, i] * sign
        colours[:, i] = (score - score.min()) / (score.max() - score.min())
    return 0.16 + 0.72 * colours  # neither black nor white nor pure
