"""SSL4EO-S12: ResNet50 pretrained on Sentinel-2 (DINO) and Sentinel-1 (MoCo); pooled features, no classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import DECIBEL, REFLECTANCE, KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import SENTINEL1, SENTINEL2_L1C
from mtembed.types import Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

_LAYOUTS = (KeyLayout("torchgeo", dropped=("fc.*",)),)
_CITATION = "Wang et al., SSL4EO-S12, IEEE GRSM 2023, doi:10.1109/MGRS.2023.3281651, arXiv:2211.07044"


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's ResNet50 for the source's bands, with global average pooling; any ``size`` fits."""
    from mtembed.models.networks import PooledMap, timm_network

    channels = len(spec.bands[source])
    return PooledMap(timm_network(spec, weights, {"in_chans": channels, "zero_init_last": False}))


SPECS = (
    ModelSpec(
        name="ssl4eo-s2",
        title="SSL4EO-S12 ResNet50, DINO, Sentinel-2 L1C, 13 bands",
        architecture="resnet50",
        source="S2L1C",
        bands={"S2L1C": SENTINEL2_L1C},
        normalisations={"S2L1C": REFLECTANCE},
        size=224,
        patch=1,
        smallest=32,
        dim=2048,
        parameters=23_539_392,
        half="float16",
        gpu_batch=512,
        cpu_batch=8,
        licence="CC-BY-4.0",
        citation=_CITATION,
        published=PublishedWeights(
            library="torchgeo",
            entry="ResNet50_Weights.SENTINEL2_ALL_DINO",
            file="resnet50_sentinel2_all_dino-d6c330e9.pth",
            repository="torchgeo/resnet50_sentinel2_all_dino",
        ),
        layouts=_LAYOUTS,
        loader=load,
    ),
    ModelSpec(
        name="ssl4eo-s1",
        title="SSL4EO-S12 ResNet50, MoCo, Sentinel-1 vv and vh",
        architecture="resnet50",
        source="S1RTC",
        bands={"S1RTC": SENTINEL1},
        normalisations={"S1RTC": DECIBEL},
        size=224,
        patch=1,
        smallest=32,
        dim=2048,
        parameters=23_504_896,
        half="float16",
        gpu_batch=512,
        cpu_batch=8,
        licence="CC-BY-4.0",
        citation=_CITATION,
        published=PublishedWeights(
            library="torchgeo",
            entry="ResNet50_Weights.SENTINEL1_GRD_MOCO",
            file="resnet50_sentinel1_all_moco-906e4356.pth",
            repository="torchgeo/resnet50_sentinel1_all_moco",
        ),
        layouts=_LAYOUTS,
        loader=load,
    ),
)
