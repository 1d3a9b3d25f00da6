"""OlmoEarth v1.1 nano and base: a transformer over patches of 8 px, Sentinel-2 L2A or Sentinel-1; mean of all tokens.

Its network is that of the package olmoearth-pretrain-minimal (``pip install 'mtembed[olmoearth]'``).  One time step is
given, whose month is always June.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights, spanned
from mtembed.sources import SENTINEL1
from mtembed.types import Source

if TYPE_CHECKING:
    from torch import nn

    from mtembed.types import Weights

_BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
INPUTS: dict[Source, str] = {"S2L2A": "sentinel2_l2a", "S1RTC": "sentinel1"}
"""OlmoEarth's names of what it is given."""

# Statistics of the package's norm_configs/computed.json: digital numbers without offset, and decibels.
_REFLECTANCES = spanned(
    "standard",
    (
        1188.9412572078477, 1407.7739105458452, 1513.0573882432757, 2755.481305028308, 1890.9893042634167,
        2483.7812315422448, 2722.728248756412, 2885.570263047681, 2562.852607796968, 1914.1383249044113,
        1115.8494388252218, 3269.812554170875,
    ),
    (
        1859.1923971769581, 1727.7387413631088, 1740.7757298757895, 1612.2565699990187, 1754.7320388511766,
        1622.1172720635755, 1621.8226170190276, 1611.3587521042082, 1441.5471830655151, 1328.8914382756407,
        1955.6991794280914, 2651.088425085525,
    ),
)  # fmt: skip
_DECIBELS = spanned(
    "decibel-standard", (-11.648990747328444, -17.745436133270044), (10.840350299936597, 10.216274681392647)
)

_OTHERS = ("decoder.*", "target_encoder.*", "supervision_head.*", "location_token_distillation_head.*", "*loss*")
_KINDS = ("worldcover", "srtm", "openstreetmap_raster", "wri_canopy_height_map", "cdl", "worldcereal", "landsat")
_UNUSED = tuple(f"encoder.*per_modality_*.{kind}*" for kind in _KINDS)


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the package's encoder; any multiple of 8 px fits."""
    from mtembed.models.networks import filled
    from mtembed.models.networks_olmoearth import OneTime, encoder

    named = spec.architecture.rpartition("_")[2]
    trunk = filled(lambda: encoder(named, list(INPUTS.values())), weights, spec.layouts)
    return OneTime(trunk, INPUTS[source], spec.patch)


def _spec(size: str, dim: int, parameters: int) -> ModelSpec:
    return ModelSpec(
        name=f"olmoearth-{size}",
        title=f"OlmoEarth v1.1 {size}, patches of 8 px, mean of all tokens, 12 bands, or vv and vh",
        architecture=f"olmoearth_v1_1_{size}",
        source="S2L2A",
        also=("S1RTC",),
        bands={"S2L2A": _BANDS, "S1RTC": SENTINEL1},
        normalisations={"S2L2A": _REFLECTANCES, "S1RTC": _DECIBELS},
        size=128,
        patch=8,
        smallest=8,
        dim=dim,
        parameters=parameters,
        half=None,
        gpu_batch=288,
        cpu_batch=5,
        licence="OlmoEarth Artifact License",
        terms=f"https://huggingface.co/allenai/OlmoEarth-v1_1-{size.capitalize()}",
        citation="Herzog et al., OlmoEarth: Stable Latent Image Modeling, 2025, arXiv:2511.13655",
        published=PublishedWeights(
            library="hub",
            entry="",
            file="weights.pth",
            repository=f"allenai/OlmoEarth-v1_1-{size.capitalize()}",
        ),
        layouts=(KeyLayout("whole", mark="encoder.", prefix="encoder.", dropped=(*_OTHERS, *_UNUSED)),),
        loader=load,
        offset="remove",
        package="olmoearth-pretrain-minimal",
        engines=("torch",),
    )


SPECS = (_spec("base", 768, 91_943_296), _spec("nano", 128, 1_007_360))
