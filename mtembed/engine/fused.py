"""Networks as cuDNN runs them fast: bias, sum and ReLU in the epilogue of a convolution, channels in multiples of 8.

torch adds the bias of a convolution, the residual sum and the ReLU in passes of their own, each of which reads and
writes the whole map.  ``torch.cudnn_convolution_relu`` and its sibling do them while the result is still in registers;
there is one rounding to 16 bit instead of three.  On a CPU the same networks are made of plain operators, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtembed.engine.residual import is_plain_resnet, join_resnet
from mtembed.kernels import rectified
from mtembed.models.networks import Embedder, RandomConvolutions

ALIGNED = 8  # channels that tensor cores take at once in 16 bit (NVIDIA's guide for convolutional layers)


def stem_of(network: nn.Module) -> nn.Conv2d | None:
    """The convolution that takes a network's input, where timm names one."""
    trunk: Any = network.trunk if isinstance(network, Embedder) else None
    name = getattr(trunk, "pretrained_cfg", {}).get("first_conv")
    stem = trunk.get_submodule(name) if isinstance(name, str) else None
    return stem if isinstance(stem, nn.Conv2d) and stem.groups == 1 else None


def widen(network: nn.Module) -> int:
    """Give a network room for channels up to a multiple of 8, whose weights are 0; return how many it takes now.

    ``optimise`` came before, ``fuse`` comes after.  0 where its input cannot be widened.  In float32 no tensor core
    computes and nothing is won, but the kernel of random convolutions takes any number.
    """
    if isinstance(network, RandomConvolutions) and RectifiedMeans.fits(network):
        channels = network.trunk.in_channels
        return int(channels + -channels % ALIGNED)
    stem = stem_of(network)
    if stem is None or stem.weight.dtype == torch.float32:
        return 0
    missing = -stem.in_channels % ALIGNED
    if missing:
        stem.weight = nn.Parameter(functional.pad(stem.weight, (0, 0, 0, 0, 0, missing)), requires_grad=False)
        stem.weight.data = stem.weight.data.contiguous(memory_format=torch.channels_last)
        stem.in_channels += missing
    return stem.in_channels


def fuse(network: nn.Module) -> nn.Module:
    """Return a network that ``optimise`` prepared with its steps joined: a plain ResNet, or random convolutions.

    Every other network is returned as it is.  A ResNet is changed in place.
    """
    trunk = network.trunk if isinstance(network, Embedder) else None
    if trunk is not None and is_plain_resnet(trunk):
        for block in (block for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4) for block in layer):
            _move_bias(block)
        join_resnet(trunk, FusedConvolution)
    if isinstance(network, RandomConvolutions) and RectifiedMeans.fits(network):
        return RectifiedMeans(network)
    return network


def _move_bias(block: Any) -> None:
    """Add the bias of a block's shortcut to that of its last convolution: their results are summed anyway."""
    if block.downsample is not None and block.downsample[0].bias is not None:
        total = block.conv3.bias.float() + block.downsample[0].bias.float()
        block.conv3.bias = nn.Parameter(total.to(block.conv3.bias.dtype), requires_grad=False)
        block.downsample[0].bias = None


class FusedConvolution(nn.Module):
    """See ``residual.JoinedConvolution``."""

    def __init__(self, convolution: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.relu = convolution.weight, convolution.bias, relu
        places = (convolution.stride, convolution.padding, convolution.dilation)
        self.places: Any = (*map(list, places), convolution.groups)

    def forward(self, x: Tensor) -> Tensor:
        if not self.relu:
            return functional.conv2d(x, self.weight, self.bias, *self.places)
        if x.is_cuda:
            fused: Tensor = torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.places)
            return fused
        return functional.conv2d(x, self.weight, self.bias, *self.places).relu_()

    def onto(self, x: Tensor, shortcut: Tensor) -> Tensor:
        if x.is_cuda:
            fused: Tensor = torch.cudnn_convolution_add_relu(x, self.weight, shortcut, 1.0, self.bias, *self.places)
            return fused
        return functional.conv2d(x, self.weight, self.bias, *self.places).add_(shortcut).relu_()


class RectifiedMeans(nn.Module):
    """Random convolutions in float32 through one kernel (``kernels/rectified.cu``); on a CPU as they were."""

    weights: Tensor

    def __init__(self, network: RandomConvolutions) -> None:
        super().__init__()
        self.plain = network
        self.bias = float(network.trunk.bias[0])
        self.register_buffer("weights", network.trunk.weight.permute(2, 3, 1, 0).contiguous())

    @staticmethod
    def fits(network: RandomConvolutions) -> bool:
        """Whether the kernel is made for these filters."""
        weight, bias = network.trunk.weight, network.trunk.bias
        filters, _, *side = weight.shape
        equal = bias is not None and bool((bias == bias[0]).all())
        return weight.dtype == torch.float32 and side == [3, 3] and filters % rectified.GROUP == 0 and equal

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return self.plain(x[:, : self.weights.shape[2]])  # type: ignore[no-any-return]
        means: Tensor = rectified.rectified_means(x, self.weights, self.bias)
        return means
