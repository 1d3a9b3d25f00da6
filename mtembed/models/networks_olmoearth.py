"""OlmoEarth's encoder, as the package olmoearth-pretrain-minimal has it, for one time step of one sensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtembed.models.networks import Embedder

_JUNE = (15, 5, 2020)  # day, month counted from 0, year


def encoder(size: str, inputs: list[str]) -> nn.Module:
    """The encoder of version 1.1 for these kinds of input."""
    from olmoearth_pretrain_minimal import OlmoEarthPretrain_v1

    whole: Any = OlmoEarthPretrain_v1(size, "v1.1", supported_modality_names=inputs)
    found: nn.Module = whole.model.encoder
    return found


class OneTime(Embedder):
    """The mean of all tokens, which come out of the encoder with its last norm; [n, C, size, size] -> [n, D]."""

    def __init__(self, trunk: Any, kind: str, patch: int) -> None:
        super().__init__(trunk)
        self.kind, self.patch = kind, patch

    def forward(self, x: Tensor) -> Tensor:
        from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

        pixels = self.to_trunk(x).permute(0, 2, 3, 1).unsqueeze(3)
        seen = torch.zeros((*pixels.shape[:4], 1), device=x.device)  # 0: given to the encoder
        when = torch.tensor(_JUNE, device=x.device).expand(len(x), 1, 3)
        sample = MaskedOlmoEarthSample(timestamps=when, **{self.kind: pixels, f"{self.kind}_mask": seen})
        out = self.trunk(sample, patch_size=self.patch, fast_pass=True)["tokens_and_masks"]
        tokens: Tensor = getattr(out, self.kind)
        return tokens.flatten(1, -2).mean(1, dtype=torch.float32)
