"""DINOv2 ViT-B/14 at 224 px: the mean of all 257 tokens (the class token too) after the last norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import RED_GREEN_BLUE
from mtembed.types import Normalisation, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtembed.types import Weights

# ImageNet's mean and std, as in the model's processor configuration.
_RGB = Normalisation("rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# Hugging Face's names and timm's, for files (attention.attention.query) and for transformers >= 5 in memory (q_proj).
_RENAMED = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    ".attention.attention.query.": ".attn.q.",
    ".attention.attention.key.": ".attn.k.",
    ".attention.attention.value.": ".attn.v.",
    ".attention.output.dense.": ".attn.proj.",
    ".attention.q_proj.": ".attn.q.",
    ".attention.k_proj.": ".attn.k.",
    ".attention.v_proj.": ".attn.v.",
    ".attention.o_proj.": ".attn.proj.",
    ".layer_scale1.lambda1": ".ls1.gamma",
    ".layer_scale2.lambda1": ".ls2.gamma",
    "layernorm.": "norm.",
}


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the keys of a transformers ``Dinov2Model`` into timm's; query, key and value become one tensor."""
    import torch

    renamed = {}
    for key, tensor in state.items():
        for theirs, ours in _RENAMED.items():
            key = key.replace(theirs, ours)
        renamed[key] = tensor
    for query in [key for key in renamed if ".attn.q." in key]:
        parts = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in renamed for part in parts):
            renamed[query.replace(".attn.q.", ".attn.qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's network at ``size``; the 37 x 37 position embedding is resampled to ``size / 14`` squared."""
    from mtembed.models.networks import TokenMean, resampled_positions, timm_network

    grid = size // spec.patch
    trunk = timm_network(spec, weights, {}, {"img_size": size}, adapt=lambda s: resampled_positions(s, grid, prefix=1))
    return TokenMean(trunk)


SPECS = (
    ModelSpec(
        name="dinov2",
        title="DINOv2 ViT-B/14 at 224 px, mean of all tokens, RGB",
        architecture="vit_base_patch14_dinov2",
        source="S2L2A",
        bands={"S2L2A": RED_GREEN_BLUE, "S2L1C": RED_GREEN_BLUE},
        normalisations={"S2L2A": _RGB, "S2L1C": _RGB},
        size=224,
        patch=14,
        smallest=14,
        dim=768,
        parameters=85_724_928,
        half="bfloat16",
        gpu_batch=256,
        cpu_batch=5,
        licence="Apache-2.0",
        citation="Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023, arXiv:2304.07193",
        published=PublishedWeights(
            library="timm",
            entry="vit_base_patch14_dinov2.lvd142m",
            file="model.safetensors",
            repository="timm/vit_base_patch14_dinov2.lvd142m",
        ),
        layouts=(
            KeyLayout("transformers", mark="embeddings.", dropped=("*mask_token",), rename=from_transformers),
            KeyLayout("timm", dropped=("*mask_token", "head.*")),
        ),
        loader=load,
        # Saturated Antarctic fragments as printed in the reference's notebook 05.
        oracle=(1.766272, -0.4046016, -0.21980742, -1.0928067),
    ),
)
