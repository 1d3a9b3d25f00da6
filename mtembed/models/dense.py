"""A model whose vectors are the maps that its network makes, instead of one vector for a fragment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mtembed.errors import UsageError
from mtembed.models.base import Loader, ModelSpec
from mtembed.types import MapShape, Source, Weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MapLoader:
    """Builds the network of a model (``loader``, of vectors of ``dim`` values) with its map as output."""

    loader: Loader
    dim: int

    def __call__(self, spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
        from mtembed.models.networks_dense import WholeMap

        return WholeMap(self.loader(replace(spec, dim=self.dim), source, weights, size))


def mapped(spec: ModelSpec, size: int) -> ModelSpec:
    """Return the model whose vectors are the maps of fragments of ``size`` px, row by row.

    Raises ``UsageError`` for a model that has none, and for a size that does not fit.
    """
    if spec.layout is None:
        raise UsageError(f"{spec.name} has no map of vectors: leave out --dense.")
    spec.require_size(size)
    side = spec.layout.count(size)
    share = spec.size**2 / size**2  # of a batch's pixels
    return replace(
        spec,
        size=size,
        dim=side * side * spec.dim,
        shape=MapShape(spec.layout, side, side, spec.dim),
        gpu_batch=max(1, int(spec.gpu_batch * share)),
        cpu_batch=max(1, int(spec.cpu_batch * share)),
        loader=MapLoader(spec.loader, spec.dim),
    )
