"""SoftCon: ResNet50 and ViT-B/14 pretrained on SSL4EO-S12 with land cover as soft labels, Sentinel-2 or Sentinel-1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtembed.models import ssl4eo
from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import SENTINEL1, SENTINEL2_L1C
from mtembed.types import Normalisation, Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

# Statistics of SSL4EO-S12, digital numbers and decibels, as torchgeo has them with these weights.
_NORMALISATIONS: dict[Source, Normalisation] = {
    "S2L1C": Normalisation(
        "standard",
        mean=(
            1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4,
        ),
        std=(
            791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9,
        ),
    ),
    "S1RTC": Normalisation("decibel-standard", mean=(-12.59, -20.26), std=(5.26, 5.91)),
}  # fmt: skip
_BANDS: dict[Source, tuple[str, ...]] = {"S2L1C": SENTINEL2_L1C, "S1RTC": SENTINEL1}


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's ViT, whose class token is the vector; its 16 x 16 positions are resampled for other sizes."""
    from mtembed.models.networks import ClassToken, resampled_positions, timm_network

    grid = size // spec.patch
    options = {"in_chans": len(spec.bands[source])}
    trunk = timm_network(
        spec, weights, options, {"img_size": size}, {"img_size": spec.size},
        adapt=lambda state: resampled_positions(state, grid, prefix=1),
    )  # fmt: skip
    return ClassToken(trunk)


_RESNET: dict[str, Any] = {
    "architecture": "resnet50", "patch": 1, "smallest": 32, "dim": 2048, "half": "float16", "gpu_batch": 512,
    "cpu_batch": 8, "layouts": (KeyLayout("torchgeo", dropped=("fc.*",)),), "loader": ssl4eo.load,
}  # fmt: skip
_VIT: dict[str, Any] = {
    "architecture": "vit_base_patch14_dinov2", "patch": 14, "smallest": 14, "dim": 768, "half": "bfloat16",
    "gpu_batch": 256, "cpu_batch": 5, "layouts": (KeyLayout("torchgeo", dropped=("*mask_token", "head.*")),),
    "loader": load,
}  # fmt: skip


def _spec(
    name: str, title: str, source: Source, kind: dict[str, Any], entry: str, file: str, parameters: int
) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        source=source,
        bands={source: _BANDS[source]},
        normalisations={source: _NORMALISATIONS[source]},
        size=224,
        parameters=parameters,
        licence="Apache-2.0 (repository)",
        citation="Wang et al., Multi-Label Guided Soft Contrastive Learning, IEEE TGRS 2024, arXiv:2405.20462",
        published=PublishedWeights("torchgeo", entry, file, "wangyi111/softcon"),
        **kind,
    )


SPECS = (
    _spec(
        "softcon-s2", "SoftCon ViT-B/14, class token, Sentinel-2 L1C, 13 bands", "S2L1C", _VIT,
        "ViTBase14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON", "B13_vitb14_softcon_enc.pth", 87_230_208,
    ),
    _spec(
        "softcon-s1", "SoftCon ViT-B/14, class token, Sentinel-1 vv and vh", "S1RTC", _VIT,
        "ViTBase14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON", "B2_vitb14_softcon_enc.pth", 85_574_400,
    ),
    _spec(
        "softcon-rn50-s2", "SoftCon ResNet50, Sentinel-2 L1C, 13 bands", "S2L1C", _RESNET,
        "ResNet50_Weights.SENTINEL2_ALL_SOFTCON", "B13_rn50_softcon.pth", 23_539_392,
    ),
    _spec(
        "softcon-rn50-s1", "SoftCon ResNet50, Sentinel-1 vv and vh", "S1RTC", _RESNET,
        "ResNet50_Weights.SENTINEL1_GRD_SOFTCON", "B2_rn50_softcon.pth", 23_504_896,
    ),
)  # fmt: skip
