"""SigLIP and SigLIP 2: the visual tower, its attention pool's output, not L2-normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import RED_GREEN_BLUE
from mtembed.types import Normalisation, Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

# Mean and std of the model's hub configuration (open_clip built offline would carry those of another model).
_RGB = Normalisation("rgb", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's visual trunk at ``size``; its position embedding is resampled where the grid differs."""
    from mtembed.models.networks import LatentPooled, resampled_positions, timm_network

    grid = size // spec.patch
    trunk = timm_network(spec, weights, {}, {"img_size": size}, adapt=lambda s: resampled_positions(s, grid, prefix=0))
    return LatentPooled(trunk)


_LAYOUTS = (
    KeyLayout("open_clip", mark="visual.trunk.", prefix="visual.trunk.", dropped=("text.*", "logit_*")),
    KeyLayout("timm", dropped=("head.*",)),
)
_PARAMETERS = {1152: 428_225_600, 768: 92_884_224}  # by width


def _second(name: str, title: str, architecture: str, size: int, patch: int, dim: int, text: str) -> ModelSpec:
    """A size of SigLIP 2, which has the networks of SigLIP."""
    return ModelSpec(
        name=f"siglip2-{name}",
        title=f"SigLIP 2 {title}, visual tower, RGB",
        architecture=architecture,
        source="S2L2A",
        bands={"S2L2A": RED_GREEN_BLUE, "S2L1C": RED_GREEN_BLUE},
        normalisations={"S2L2A": _RGB, "S2L1C": _RGB},
        size=size,
        patch=patch,
        smallest=patch,
        dim=dim,
        parameters=_PARAMETERS[dim],
        half="bfloat16",
        gpu_batch=64 if dim > 1000 else 256,
        cpu_batch=5,
        licence="Apache-2.0",
        citation="Tschannen et al., SigLIP 2: Multilingual Vision-Language Encoders, 2025, arXiv:2502.14786",
        published=PublishedWeights(
            library="timm",
            entry=f"{architecture}.v2_webli",
            file="model.safetensors",
            repository=f"timm/{architecture}.v2_webli",
        ),
        layouts=_LAYOUTS,
        loader=load,
        text=text,
    )


SPECS = (
    ModelSpec(
        name="siglip",
        title="SigLIP SO400M/14 at 384 px, visual tower, RGB",
        architecture="vit_so400m_patch14_siglip_384",
        source="S2L2A",
        bands={"S2L2A": RED_GREEN_BLUE, "S2L1C": RED_GREEN_BLUE},
        normalisations={"S2L2A": _RGB, "S2L1C": _RGB},
        size=384,
        patch=14,
        smallest=14,
        dim=1152,
        parameters=428_225_600,
        half="bfloat16",
        gpu_batch=64,
        cpu_batch=5,
        licence="Apache-2.0",
        citation="Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, arXiv:2303.15343",
        published=PublishedWeights(
            library="timm",
            entry="vit_so400m_patch14_siglip_384.webli",
            file="model.safetensors",
            repository="timm/vit_so400m_patch14_siglip_384.webli",
        ),
        layouts=_LAYOUTS,
        loader=load,
        text="ViT-SO400M-14-SigLIP-384",
    ),
    _second(
        "so400m", "SO400M/14 at 378 px", "vit_so400m_patch14_siglip_378", 378, 14, 1152, "ViT-SO400M-14-SigLIP2-378"
    ),
    _second("base", "ViT-B/16 at 224 px", "vit_base_patch16_siglip_224", 224, 16, 768, "ViT-B-16-SigLIP2"),
)
