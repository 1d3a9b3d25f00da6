"""Galileo's encoder for one time step and one sensor: a token for every patch and every group of bands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mtembed.models.networks import Tokens

WIDTH, DEPTH, HEADS = 128, 4, 8  # of the size nano
PATCH = 8
_QUARTER = WIDTH // 4  # of a token's place: channel group, time step, month, position


class TokenGroups(nn.Module):
    """[n, C, h, w] -> tokens [n, groups x rows x columns, 128] before the last norm; ``groups`` are channel numbers."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        self.patches = nn.ModuleList(nn.Conv2d(len(group), WIDTH, PATCH, stride=PATCH) for group in self.groups)
        self.channels = nn.Parameter(torch.zeros(len(groups), _QUARTER))
        self.time = nn.Parameter(torch.zeros(_QUARTER))
        self.month = nn.Parameter(torch.zeros(_QUARTER))
        norm: Any = partial(nn.LayerNorm, eps=1e-5)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, qkv_bias=True, norm_layer=norm) for _ in range(DEPTH)))
        self.norm: nn.Module = norm(WIDTH)

    def forward_features(self, x: Tensor) -> Tensor:
        maps = [patch(x[:, group]) for patch, group in zip(self.patches, self.groups, strict=True)]
        rows, cols = maps[0].shape[2:]
        space = positions(rows, cols).to(x)
        tokens = [
            one.flatten(2).transpose(1, 2) + torch.cat([self._place(group).expand(len(space), -1), space], dim=1)
            for group, one in enumerate(maps)
        ]
        mixed: Tensor = self.blocks(torch.cat(tokens, dim=1))
        return mixed

    def _place(self, group: int) -> Tensor:
        """What all tokens of a group have in common: [96]."""
        return torch.cat([self.channels[group], self.time, self.month])


def positions(rows: int, cols: int) -> Tensor:
    """Sines and cosines of each patch's column and row, in pixels of 10 m: float32 [rows x cols, 32].

    Frequencies are 10000^(-k / 64) for k from 0 to 7: Galileo's code divides by twice the width where others divide the
    exponent's range by it, and its weights were trained so.
    """
    half = _QUARTER // 2
    frequency = 1.0 / 10000 ** (torch.arange(half // 2) / half / 2.0)
    row, col = torch.meshgrid(torch.arange(rows) * float(PATCH), torch.arange(cols) * float(PATCH), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (col, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


class GroupMean(Tokens):
    """The mean of all tokens after the last norm, in float32.

    ``undone`` holds (channel, factor, sum) of near infrared and red, by which network input becomes digital numbers
    again: their normalised difference is one more channel.  Empty: there is none.
    """

    def __init__(self, trunk: Any, undone: Sequence[tuple[int, float, float]]) -> None:
        super().__init__(trunk)
        self.undone = tuple(undone)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens after the last norm, group by group, float32 [n, groups x rows x columns, 128]."""
        if self.undone:
            near, red = (x[:, channel].float() * factor + level for channel, factor, level in self.undone)
            x = torch.cat([x, normalised_difference(near, red)[:, None].to(x.dtype)], dim=1)
        return super().tokens(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)

    def dense(self, x: Tensor) -> Tensor:
        """The mean of a patch's tokens, one of each group, float32 [n, rows, columns, 128]."""
        shape = (len(x), len(self.trunk.groups), x.shape[2] // PATCH, x.shape[3] // PATCH, WIDTH)
        return self.tokens(x).reshape(shape).mean(1)


def normalised_difference(near: Tensor, red: Tensor) -> Tensor:
    """(near - red) / (near + red), 0 where that is not defined."""
    total = near + red
    defined = total > 0
    return torch.where(defined, (near - red) / torch.where(defined, total, 1), 0)
