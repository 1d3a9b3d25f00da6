"""DINOv3 ViT-L/16 pretrained on 493 million satellite images of under a metre: mean of the patch tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import RED_GREEN_BLUE
from mtembed.types import MapLayout, Normalisation, Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

# Mean and std of the model's hub configuration.
_RGB = Normalisation("rgb", mean=(0.43, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's network; its positions are rotations, so any multiple of 16 px fits as it is."""
    from mtembed.models.networks import TokenMean, timm_network

    trunk = timm_network(spec, weights, {}, {"img_size": size}, {"img_size": size})
    return TokenMean(trunk, skipped=trunk.num_prefix_tokens)


SPECS = (
    ModelSpec(
        name="dinov3-sat",
        title="DINOv3 ViT-L/16, satellite images, mean of the patch tokens, RGB",
        architecture="vit_large_patch16_dinov3",
        source="S2L2A",
        bands={"S2L2A": RED_GREEN_BLUE, "S2L1C": RED_GREEN_BLUE},
        normalisations={"S2L2A": _RGB, "S2L1C": _RGB},
        size=224,
        patch=16,
        smallest=16,
        dim=1024,
        parameters=303_079_424,
        half="bfloat16",
        gpu_batch=128,
        cpu_batch=5,
        licence="DINOv3 License",
        terms="https://github.com/facebookresearch/dinov3/blob/main/LICENSE.md",
        citation="Simeoni et al., DINOv3, 2025, arXiv:2508.10104",
        published=PublishedWeights(
            library="timm",
            entry="vit_large_patch16_dinov3.sat493m",
            file="model.safetensors",
            repository="timm/vit_large_patch16_dinov3.sat493m",
        ),
        layouts=(KeyLayout("timm", dropped=("head.*", "*mask_token")),),
        loader=load,
        layout=MapLayout(step=16),
        engines=("torch",),
    ),
)
