"""ConvNeXt V2 as MMEarth uses it: its stem keeps every pixel, and its output is a map of vectors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

DEPTHS, WIDTHS = (2, 2, 6, 2), (40, 80, 160, 320)  # of the size atto
_EPSILON = 1e-4  # of the response's normalisation; ConvNeXt V2 itself and timm have 1e-6


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of [n, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """Scales each channel of [n, h, w, C] by its norm over the whole map, relative to the mean of all channels'."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
        share = response / (response.mean(-1, keepdim=True) + _EPSILON)
        scaled: Tensor = self.gamma * (x * share.to(x.dtype)) + self.beta + x
        return scaled


class Block(nn.Module):
    """A depthwise convolution of 7 x 7, then two linear layers per position; [n, C, h, w] to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = ResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        inner = self.pwconv2(self.grn(self.act(self.pwconv1(inner))))
        return x + inner.permute(0, 3, 1, 2)


class SpatialConvNeXt(nn.Module):
    """[n, C, size, size] -> map [n, 320, m, m] with m = (size - 2) // 8: 27 for 224 px, 133 for 1068.

    Position (i, j) of the map draws on the pixels 8 i to 8 i + 9 and 8 j to 8 j + 9 before the blocks, which look
    around.  There is no norm behind the last block: the pretrained encoder has none.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.initial_conv = nn.Sequential(nn.Conv2d(channels, first, 3), ChannelNorm(first), nn.GELU())
        self.stem = nn.Sequential(nn.Conv2d(first, first, 1, groups=first), ChannelNorm(first))
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(ChannelNorm(narrow), nn.Conv2d(narrow, wide, 2, stride=2))
            for narrow, wide in pairwise(WIDTHS)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth))) for depth, width in zip(DEPTHS, WIDTHS, strict=True)
        )

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stages[0](self.stem(self.initial_conv(x)))
        for smaller, stage in zip(self.downsample_layers, self.stages[1:], strict=True):
            x = stage(smaller(x))
        return x
