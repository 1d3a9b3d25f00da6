"""TerraMind v1: a ViT pretrained on pixels of Major TOM Core, Sentinel-2 of both levels or Sentinel-1; mean of tokens.

It is timm's ViT under other names: its patches are a linear layer over (row, column, band), its place is a fixed table
and one vector for each kind of input, and the large sizes have gated layers without biases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.sources import SENTINEL1, SENTINEL2_L1C, SENTINEL2_L2A
from mtembed.types import MapLayout, Normalisation, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtembed.types import Weights

_PATCH = 16
_INPUTS: dict[Source, str] = {"S2L2A": "sen2l2a", "S2L1C": "sen2l1c", "S1RTC": "sen1rtc"}
"""TerraMind's names of what it is given."""

# Statistics of its pretraining data, cut from Core: digital numbers as they are, offset and all, and decibels.
_NORMALISATIONS: dict[Source, Normalisation] = {
    "S2L2A": Normalisation(
        "standard",
        mean=(
            1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975, 2987.011, 3083.234, 3132.22, 3162.988, 2424.884,
            1857.648,
        ),
        std=(
            2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926, 1820.257, 1871.918, 1753.829, 1797.379,
            1434.261, 1334.311,
        ),
    ),
    "S2L1C": Normalisation(
        "standard",
        mean=(
            2357.089, 2137.385, 2018.788, 2082.986, 2295.651, 2854.537, 3122.849, 3040.56, 3306.481, 1473.847, 506.07,
            2472.825, 1838.929,
        ),
        std=(
            1624.683, 1675.806, 1557.708, 1833.702, 1823.738, 1733.977, 1732.131, 1679.732, 1727.26, 1024.687, 442.165,
            1331.411, 1160.419,
        ),
    ),
    "S1RTC": Normalisation("decibel-standard", mean=(-10.93, -17.329), std=(4.391, 4.459)),
}  # fmt: skip

_OTHERS = ("decoder*", "mask_token*", "*tokenizer*")


def from_terratorch(state: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Turn the keys of a whole model, or of its encoder, into timm's, for one kind of input; others are left out.

    Raises ``KeyError`` for a part that is missing.
    """
    embedding = f"encoder_embeddings.untok_{_INPUTS[source]}@224."
    weight = state[f"{embedding}proj.weight"]
    patches = weight.reshape(len(weight), _PATCH, _PATCH, -1).permute(0, 3, 1, 2)
    found = {
        "patch_embed.proj.weight": patches,
        "patch_embed.proj.bias": state[f"{embedding}mod_emb"].flatten(),
        "pos_embed": state[f"{embedding}pos_emb"],
    }
    gated = any(".mlp.fc3." in key for key in state)
    for key, tensor in state.items():
        if key.startswith("encoder."):
            key = "blocks." + key.removeprefix("encoder.")
            if gated:
                key = key.replace(".mlp.fc1.", ".mlp.fc1_g.").replace(".mlp.fc3.", ".mlp.fc1_x.")
            found[key] = tensor
        elif key.startswith("encoder_norm."):
            found[key.removeprefix("encoder_")] = tensor
    return found


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build timm's ViT for the source's bands, with gated layers where the size has them; only 224 px fit."""
    from timm.layers.mlp import SwiGLU
    from torch.nn import SiLU

    from mtembed.models.networks import TokenMean, timm_network

    layouts = tuple(replace(layout, rename=lambda state: from_terratorch(state, source)) for layout in spec.layouts)
    options: dict[str, Any] = {"in_chans": len(spec.bands[source]), "class_token": False, "global_pool": ""}
    if spec.architecture in _GATED:
        hidden = 2 * 4 * spec.dim // 3
        options |= {"qkv_bias": False, "proj_bias": False, "mlp_layer": SwiGLU, "act_layer": SiLU}
        options["mlp_ratio"] = hidden / spec.dim
    return TokenMean(timm_network(replace(spec, layouts=layouts), weights, options))


_GATED = ("vit_base_patch16_224", "vit_large_patch16_224")


def _spec(size: str, dim: int, parameters: int) -> ModelSpec:
    return ModelSpec(
        name=f"terramind-{size}",
        title=f"TerraMind v1 {size} at 224 px, mean of all tokens, all bands",
        architecture=f"vit_{size}_patch16_224",
        source="S2L2A",
        also=("S2L1C", "S1RTC"),
        bands={"S2L2A": SENTINEL2_L2A, "S2L1C": SENTINEL2_L1C, "S1RTC": SENTINEL1},
        normalisations=_NORMALISATIONS,
        size=224,
        patch=0,
        smallest=224,
        dim=dim,
        parameters=parameters,
        half="bfloat16",
        gpu_batch=256,
        cpu_batch=5,
        licence="Apache-2.0",
        citation="Jakubik et al., TerraMind: Large-Scale Generative Multimodality, ICCV 2025, arXiv:2504.11171",
        published=PublishedWeights(
            library="hub",
            entry="",
            file=f"TerraMind_v1_{size}.pt",
            repository=f"ibm-esa-geospatial/TerraMind-1.0-{size}",
        ),
        layouts=(KeyLayout("terratorch", dropped=_OTHERS),),
        loader=load,
        layout=MapLayout(step=_PATCH),
        engines=("torch",),
    )


SPECS = (_spec("base", 768, 87_483_648), _spec("small", 384, 22_549_632))
