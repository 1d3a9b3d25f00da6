"""Galileo nano: a transformer over patches of 8 px and groups of bands of Sentinel-2 or Sentinel-1; mean of all tokens.

One time step is given, whose month is always June; what Galileo also knows (weather, elevation, land cover, place) is
masked.  NDVI, which has tokens of its own, is made inside the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights, spanned
from mtembed.sources import SENTINEL1
from mtembed.types import MapLayout, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtembed.types import Weights

_OPTICAL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# Statistics of Galileo's own normalization.json, key 13: digital numbers without offset, and decibels.
_MEAN = (
    1395.3408730676722, 1338.4026921784578, 1343.09883810357, 1543.8607982512297, 2186.2022069512263,
    2525.0932853316694, 2410.3377187373408, 2750.2854646886753, 2234.911100061487, 1474.5311266077113,
)  # fmt: skip
_STD = (
    917.7041440370853, 913.2988423581528, 1092.678723527555, 1047.2206083460424, 1048.0101611156767,
    1143.6903026819996, 1098.979177731649, 1204.472755085893, 1145.9774063078878, 980.2429840007796,
)  # fmt: skip
_REFLECTANCES = spanned("standard", _MEAN, _STD)
_DECIBELS = spanned(
    "decibel-standard", (-11.728724389184965, -18.85558188024017), (4.887145774840316, 5.730270320384293)
)

_GROUPS = {
    "S1": SENTINEL1, "S2_RGB": ("B02", "B03", "B04"), "S2_Red_Edge": ("B05", "B06", "B07"), "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",), "S2_SWIR": ("B11", "B12"), "NDVI": ("NDVI",),
}  # fmt: skip
"""Bands that share a token, in the order of the file's channel embeddings."""
_MONTH = 5  # June, counted from 0
_MASKED = ("space_embed.*", "time_embed.*", "static_embed.*", "sp_channel_embed", "t_channel_embed", "st_channel_embed")


def _groups_of(source: Source) -> tuple[str, ...]:
    """The groups whose tokens are not masked."""
    return ("S1",) if source == "S1RTC" else tuple(name for name in _GROUPS if name != "S1")


def from_encoder(state: dict[str, Tensor], groups: tuple[str, ...]) -> dict[str, Tensor]:
    """Turn an encoder's keys into those of ``TokenGroups``; query, key and value become one tensor.

    Raises ``KeyError`` for a part that is missing.
    """
    import torch

    left = {key.replace(".backbone", ""): tensor for key, tensor in state.items()}
    found = {"channels": left.pop("s_t_channel_embed")[[list(_GROUPS).index(name) for name in groups]]}
    found["time"], found["month"] = left.pop("pos_embed")[0], left.pop("month_embed.weight")[_MONTH]
    for name in _GROUPS:
        for part in ("weight", "bias"):
            patch = left.pop(f"space_time_embed.{name}.proj.{part}")
            if name in groups:
                found[f"patches.{groups.index(name)}.{part}"] = patch
    for query in [key for key in left if ".attn.q." in key]:
        parts = [left.pop(query.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        found[query.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return found | left


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the encoder for the groups of the source's bands; any multiple of 8 px fits."""
    from mtembed.models.networks import filled
    from mtembed.models.networks_galileo import GroupMean, TokenGroups

    groups, bands, rule = _groups_of(source), (*spec.bands[source], "NDVI"), spec.normalisations[source]
    places = tuple(tuple(map(bands.index, _GROUPS[name])) for name in groups)
    layouts = [replace(layout, rename=lambda state: from_encoder(state, groups)) for layout in spec.layouts]
    compared = [bands.index(band) for band in ("B08", "B04") if band in bands]
    undone = [(number, rule.std[number], rule.mean[number]) for number in compared]
    return GroupMean(filled(lambda: TokenGroups(places), weights, layouts), undone)


SPECS = (
    ModelSpec(
        name="galileo-nano",
        title="Galileo nano, patches of 8 px, mean of all tokens, 10 bands and NDVI, or vv and vh",
        architecture="galileo_nano",
        source="S2L1C",
        also=("S1RTC",),
        bands={"S2L1C": _OPTICAL, "S2L2A": _OPTICAL, "S1RTC": SENTINEL1},
        normalisations={"S2L1C": _REFLECTANCES, "S2L2A": _REFLECTANCES, "S1RTC": _DECIBELS},
        size=96,
        patch=8,
        smallest=8,
        dim=128,
        parameters=884_480,
        half=None,
        gpu_batch=288,
        cpu_batch=8,
        licence="MIT",
        citation="Tseng et al., Galileo: Learning Global & Local Features, ICML 2025, arXiv:2502.09356",
        published=PublishedWeights(
            library="packaged",  # data/models/nano/encoder.pt of commit 0f0b5b95ac81acef4b74cf4686dc877202f4541b
            entry="galileo-nano/encoder.pt",
            file="encoder.pt",
            repository="https://github.com/nasaharvest/galileo",
            sha256="eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c",
        ),
        layouts=(KeyLayout("encoder", dropped=_MASKED),),
        loader=load,
        offset="remove",
        layout=MapLayout(step=8),
        engines=("torch",),
    ),
)
