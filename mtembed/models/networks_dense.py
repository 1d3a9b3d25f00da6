"""A network whose output is its map of vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtembed.models.networks import Embedder


class WholeMap(Embedder):
    """The map of a network that has one (``dense``), row by row: float32 [n, rows x columns x D]."""

    def __init__(self, network: Any) -> None:
        super().__init__(network.trunk)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        whole: Tensor = self.network.dense(x)
        return whole.flatten(1)

    def fold(self) -> None:
        self.network.fold()
