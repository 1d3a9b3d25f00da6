"""Band statistics: mean and spread of each band of a fragment, the baseline that sees no texture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import DECIBEL, REFLECTANCE, ModelSpec
from mtembed.sources import SENTINEL1, SENTINEL2_L1C, SENTINEL2_L2A
from mtembed.types import Normalisation, Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

STATISTICS = 2  # of a band


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the statistics; there are no weights, and any ``size`` fits."""
    from mtembed.models.networks import BandStatistics

    return BandStatistics()


def _spec(name: str, source: Source, bands: tuple[str, ...], normalisation: Normalisation) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=f"Band statistics, mean and standard deviation of {len(bands)} bands",
        architecture="bands",
        source=source,
        bands={source: bands},
        normalisations={source: normalisation},
        size=224,
        patch=1,
        smallest=1,
        dim=STATISTICS * len(bands),
        parameters=0,
        half=None,
        gpu_batch=512,
        cpu_batch=8,
        licence="Apache-2.0",
        citation="no publication: the mean and the standard deviation of a fragment's pixels, band by band",
        published=None,
        layouts=(),
        loader=load,
        trained=False,
        engines=("torch",),
    )


SPECS = (
    _spec("bands-l1c", "S2L1C", SENTINEL2_L1C, REFLECTANCE),
    _spec("bands-l2a", "S2L2A", SENTINEL2_L2A, REFLECTANCE),
    _spec("bands-s1", "S1RTC", SENTINEL1, DECIBEL),
)
