"""What a network makes of constant images: the quickest look at weights (``mtembed models --check``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtembed.models.base import ModelSpec
from mtembed.types import Weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ConstantImage:
    """What a network makes of one constant image (``check``).

    ``norm`` is the vector's L2 norm, ``values`` its first four; ``from_oracle`` is the relative L2 distance of these to
    the model's published ``oracle`` (None where none is known, meaningful for published weights only).
    """

    image: str
    norm: float
    finite: bool
    values: tuple[float, ...]
    from_oracle: float | None = None


def check(spec: ModelSpec, weights: Weights) -> list[ConstantImage]:
    """Embed constant images of brightness 0, 0.5 and 1 at the model's own source and size.

    Brightness counts after the scaling of ``normalisation`` and before its mean and std.  Where an oracle is known, a
    white image scaled by another 1/255 is embedded too: the distances tell which of the two inputs the published set
    was made from (``white``: the right one, ``white / 255``: scaled twice).
    """
    import torch

    network = spec.build(weights)
    images = {"black": 0.0, "grey": 0.5, "white": 1.0}
    if spec.oracle:
        images["white / 255"] = 1 / 255
    batch = torch.stack([torch.tensor(_constant(spec, value)) for value in images.values()])
    with torch.inference_mode():
        vectors = network(batch[:, :, None, None].expand(-1, -1, spec.size, spec.size).contiguous())
    return [_outcome(spec, image, vector) for image, vector in zip(images, vectors, strict=True)]


def _constant(spec: ModelSpec, value: float) -> list[float]:
    """Return the network input of one pixel of that brightness, one value per band."""
    rule = spec.normalisations[spec.source]
    if rule.rule != "rgb":
        return [value] * len(spec.bands[spec.source])
    return [(value - mean) / std for mean, std in zip(rule.mean, rule.std, strict=True)]


def _outcome(spec: ModelSpec, image: str, vector: Tensor) -> ConstantImage:
    finite = bool(vector.isfinite().all())
    distance = None
    if spec.oracle:
        oracle = vector.new_tensor(spec.oracle)
        distance = float((vector[: len(oracle)] - oracle).norm() / oracle.norm())
    return ConstantImage(image, float(vector.norm()), finite, tuple(vector[:4].tolist()), distance)
