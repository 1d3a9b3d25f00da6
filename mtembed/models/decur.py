"""DeCUR: ResNet50 pretrained on pairs of Sentinel-1 and Sentinel-2; pooled features of one of the two backbones."""

from __future__ import annotations

from mtembed.models.base import REFLECTANCE, KeyLayout, ModelSpec, PublishedWeights
from mtembed.models.ssl4eo import load
from mtembed.sources import SENTINEL1, SENTINEL2_L1C
from mtembed.types import Normalisation

# dB statistics of vv and vh in DeCUR's own code for data sets.
_DECIBEL = Normalisation("decibel", mean=(-12.59, -20.26), std=(5.26, 5.91))
_CITATION = "Wang et al., Decoupling Common and Unique Representations, ECCV 2024, arXiv:2309.05300"


def _layouts(backbone: str) -> tuple[KeyLayout, ...]:
    """The whole checkpoint, which holds both backbones and one projector twice, and the file of a backbone alone."""
    prefix = f"module.{backbone}."
    other = {"module.backbone_1.": "module.backbone_2.*", "module.backbone_2.": "module.backbone_1.*"}[prefix]
    dropped = (other, "module.projector*", "module.bn.*")
    return (
        KeyLayout("checkpoint", mark="module.", prefix=prefix, dropped=dropped),
        KeyLayout("backbone", dropped=("fc.*",)),
    )


SPECS = (
    ModelSpec(
        name="decur-s2",
        title="DeCUR ResNet50, Sentinel-2 L1C, 13 bands",
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
            entry="ResNet50_Weights.SENTINEL2_ALL_DECUR",
            file="rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth",
            repository="torchgeo/decur",
        ),
        layouts=_layouts("backbone_2"),
        loader=load,
    ),
    ModelSpec(
        name="decur-s1",
        title="DeCUR ResNet50, Sentinel-1 vv and vh",
        architecture="resnet50",
        source="S1RTC",
        bands={"S1RTC": SENTINEL1},
        normalisations={"S1RTC": _DECIBEL},
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
            entry="ResNet50_Weights.SENTINEL1_ALL_DECUR",
            file="rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth",
            repository="torchgeo/decur",
        ),
        layouts=_layouts("backbone_1"),
        loader=load,
    ),
)
