"""MMEarth: MP-MAE ConvNeXt V2 atto with patches of 8 px on 12 bands of Sentinel-2; the mean of its map."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights
from mtembed.types import MapLayout, Normalisation, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtembed.types import Weights

# The order of MMEarth's own code, B8A before B08; B10 is left out.
_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B08", "B09", "B11", "B12")

# Statistics of MMEarth's tiles, of each level its own, with offsets taken off and zeros left out.
_L1C = Normalisation(
    "standard-valid",
    mean=(
        1864.880176877408, 1656.9923384425733, 1561.2433627865414, 1633.6041005007844, 1846.642924880421,
        2422.1354550099322, 2706.1684786306714, 2907.509651871235, 2620.484567631748, 974.4786592695265,
        2154.0573745085508, 1464.8020890030184,
    ),
    std=(
        1520.0684839687428, 1575.4239525583005, 1474.3747757041376, 1734.9206729983894, 1697.1412804437439,
        1584.959816138674, 1577.9910344404889, 1560.2251591506092, 1519.2164490452863, 823.3855623314192,
        1311.5885770761618, 1140.1057025823181,
    ),
)  # fmt: skip
_L2A = Normalisation(
    "standard-valid",
    mean=(
        1349.3977794889083, 1479.9521800379623, 1720.3688077425966, 1899.1848715975957, 2253.9309600057886,
        2808.2001963620132, 3003.424149045887, 3149.5364927329806, 3110.840562275062, 3213.7636154015954,
        2399.086213373806, 1811.7986415136786,
    ),
    std=(
        2340.2916479338087, 2375.872101251672, 2256.8997709659416, 2354.181051828758, 2292.99569489449,
        2033.2166835293804, 1920.1736418230105, 1816.6152354201365, 1988.1938283738782, 1947.9031620588928,
        1473.224812450967, 1390.6781165633136,
    ),
)  # fmt: skip

_DECODER = ("*decoder*", "*mask_token*", "*proj*", "*pred*", "*layer_norm_tmp*", "*log_var*")
_HEAD = ("encoder.head.*", "encoder.norm.*")


def from_sparse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the keys of MinkowskiEngine's layers into those of torch's; kernels become [out, in, rows, cols].

    A sparse kernel is [positions, in, out], or [positions, channels] where each channel has its own; its positions run
    down the columns first.  What has torch's names already stays as it is.
    """
    dense = {}
    for key, tensor in state.items():
        key = key.replace(".ln.", ".").replace(".linear.", ".")
        if key.endswith(".kernel"):
            key = key.removesuffix("kernel") + "weight"
            side, width = isqrt(tensor.shape[0]), tensor.shape[-1]
            tensor = tensor.reshape(side, side, -1, width).permute(3, 2, 1, 0)
        elif key.endswith(".bias"):
            tensor = tensor.reshape(-1)
        elif ".grn." in key:
            tensor = tensor.reshape(1, 1, 1, -1)
        dense[key] = tensor
    return dense


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the encoder; any ``size`` fits."""
    from mtembed.models.networks import PooledMap, filled
    from mtembed.models.networks_convnext import SpatialConvNeXt

    return PooledMap(filled(lambda: SpatialConvNeXt(len(_BANDS)), weights, spec.layouts))


SPECS = (
    ModelSpec(
        name="mmearth",
        title="MMEarth MP-MAE ConvNeXt V2 atto, patches of 8 px, mean of the map, 12 bands",
        architecture="convnextv2_atto",
        source="S2L2A",
        also=("S2L1C",),
        bands={"S2L2A": _BANDS, "S2L1C": _BANDS},
        normalisations={"S2L2A": _L2A, "S2L1C": _L1C},
        size=224,
        patch=1,
        smallest=10,
        dim=320,
        parameters=3_389_320,
        half="bfloat16",
        gpu_batch=256,
        cpu_batch=5,
        licence="CC-BY-NC-4.0",
        terms="https://github.com/vishalned/MMEarth-train",
        citation="Nedungadi et al., MMEarth: Exploring Multi-Modal Pretext Tasks, ECCV 2024, arXiv:2405.02771",
        published=PublishedWeights(
            library="url",
            entry="https://sid.erda.dk/share_redirect/g23YOnaaTp/pt-all_mod_atto_1M_64_uncertainty_56-8/"
            "checkpoint-199.pth",
            file="checkpoint-199.pth",
            repository="https://github.com/vishalned/MMEarth-train",
        ),
        layouts=(
            KeyLayout(
                "pretraining", mark="encoder.", prefix="encoder.", dropped=(*_DECODER, *_HEAD), rename=from_sparse
            ),
            KeyLayout("torch", dropped=("head.*", "norm.*")),
        ),
        loader=load,
        offset="remove",
        layout=MapLayout(step=8, origin=1, trim=2),
        whole=True,
        engines=("torch",),
    ),
)
