"""Random convolution features (MOSAIKS): Gaussian filters drawn from a seed, so no weights to download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mtembed.models.base import DECIBEL, REFLECTANCE, ModelSpec
from mtembed.sources import SENTINEL1, SENTINEL2_L1C, SENTINEL2_L2A
from mtembed.types import FloatArray, Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

FILTERS = 256
SIDE = 3
BIAS = -1.0


def filters(channels: int, seed: int) -> FloatArray:
    """Return float32 [256, channels, 3, 3], standard normal, drawn in float64 from numpy's PCG64(seed)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((FILTERS, channels, SIDE, SIDE)).astype(np.float32)


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the features for the source's bands from ``weights.seed``; any ``size`` of at least 3 px fits."""
    from mtembed.models.networks import RandomConvolutions

    return RandomConvolutions(filters(len(spec.bands[source]), weights.seed or 0), BIAS)


SPECS = (
    ModelSpec(
        name="rcf",
        title="Random convolution features (MOSAIKS), 256 Gaussian 3 x 3 filters, all bands",
        architecture="rcf",
        source="S2L1C",
        bands={"S2L1C": SENTINEL2_L1C, "S2L2A": SENTINEL2_L2A, "S1RTC": SENTINEL1},
        normalisations={"S2L1C": REFLECTANCE, "S2L2A": REFLECTANCE, "S1RTC": DECIBEL},
        size=224,
        patch=1,
        smallest=SIDE,
        dim=2 * FILTERS,
        parameters=FILTERS * (len(SENTINEL2_L1C) * SIDE**2 + 1),
        half=None,
        gpu_batch=512,
        cpu_batch=8,
        licence="Apache-2.0",
        citation="Rolf et al., MOSAIKS, Nature Communications 2021, doi:10.1038/s41467-021-24638-z",
        published=None,
        layouts=(),
        loader=load,
        trained=False,
        engines=("torch",),
    ),
)
