"""timm's ResNets with folded norms, each convolution done together with the sum and the ReLU behind it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class JoinedConvolution(Protocol):
    """A convolution with its bias and, where it was made so, a ReLU behind it."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def onto(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """ReLU(convolution + shortcut); ``shortcut`` may be written over."""


class MakeConvolution(Protocol):
    """Makes one of a plain convolution."""

    def __call__(self, convolution: nn.Conv2d, relu: bool) -> JoinedConvolution: ...


class JoinedBottleneck(nn.Module):
    """timm's ``Bottleneck`` with folded norms: three convolutions, two of them with ReLU, the third onto the shortcut.

    The shortcut may be the input itself, which nobody needs once the first convolution has read it.
    """

    def __init__(self, block: Any, make: MakeConvolution) -> None:
        super().__init__()
        self.conv1, self.conv2 = (make(convolution, True) for convolution in (block.conv1, block.conv2))
        self.conv3 = make(block.conv3, False)
        self.downsample = None if block.downsample is None else make(block.downsample[0], False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        joined: Tensor = self.conv3.onto(self.conv2(self.conv1(x)), shortcut)
        return joined


def is_plain_resnet(trunk: Any) -> bool:
    """Say whether a trunk is a ResNet of plain bottlenecks: no attention, no blur, no stem of several convolutions."""
    if type(trunk).__module__ != "timm.models.resnet":
        return False  # and timm, which takes seconds to load, may not be loaded at all

    from timm.models.resnet import Bottleneck, ResNet

    if not isinstance(trunk, ResNet) or not isinstance(trunk.conv1, nn.Conv2d) or not isinstance(trunk.act1, nn.ReLU):
        return False
    return all(type(block) is Bottleneck and _is_plain(block) for layer in _layers(trunk) for block in layer)


def _is_plain(block: Any) -> bool:
    absent = (block.se, block.drop_path, block.drop_block, block.aa)
    activations = (block.act1, block.act2, block.act3)
    shortcut = block.downsample
    return (
        all(one is None or isinstance(one, nn.Identity) for one in absent)
        and all(isinstance(one, nn.ReLU) for one in activations)
        and all(isinstance(norm, nn.Identity) for norm in (block.bn1, block.bn2, block.bn3))
        and (shortcut is None or (isinstance(shortcut[0], nn.Conv2d) and isinstance(shortcut[1], nn.Identity)))
    )


def join_resnet(trunk: Any, make: MakeConvolution) -> None:
    """Replace the convolutions of a plain ResNet, in place, with those that ``make`` returns."""
    trunk.conv1, trunk.act1 = make(trunk.conv1, True), nn.Identity()
    for layer in _layers(trunk):
        for index, block in enumerate(layer):
            layer[index] = JoinedBottleneck(block, make)


def _layers(trunk: Any) -> tuple[Any, ...]:
    return trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
