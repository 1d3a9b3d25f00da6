"""Networks as oneDNN runs them fast: weights in its own blocked layouts, what follows a product done in its loop.

torch's modules keep weights in plain layouts, which oneDNN reorders at every call, and their activations and residual
sums pass through memory once more.  The operators used here are those that ``torch.compile`` puts into a frozen graph
(torch/_inductor/fx_passes/mkldnn_fusion.py); used directly they need no compiler and no warm-up.  The arithmetic is the
same, in another order: float32 vectors differ by about 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mtembed.engine.residual import is_plain_resnet, join_resnet
from mtembed.models.networks import Embedder

_Shape = list[int]
_onednn = torch.ops.mkldnn


def pack(network: nn.Module, fragment: Tensor) -> nn.Module:
    """Pack a network that ``optimise`` prepared, in place where it can be, and return it.

    ``fragment`` [1, C, size, size] is one input as the network will get them; the layouts are chosen for its size.
    Convolutions of residual bottlenecks and linear layers of transformers are packed, everything else stays.  So does
    the whole network where oneDNN is missing or has no fast code for its type.
    """
    trunk = network.trunk if isinstance(network, Embedder) else None
    if trunk is None or not _supported(fragment.dtype):
        return network
    if is_plain_resnet(trunk):
        shapes = _input_shapes(network, fragment)
        join_resnet(trunk, lambda convolution, relu: PackedConvolution(convolution, shapes[convolution], relu))
    elif _is_plain_transformer(trunk):
        _pack_transformer(trunk, fragment.dtype)
    return network


def _supported(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_onednn._is_mkldnn_bf16_supported()))


def _input_shapes(network: nn.Module, fragment: Tensor) -> dict[nn.Module, _Shape]:
    """What each convolution is given when ``fragment`` goes through the network."""
    shapes: dict[nn.Module, _Shape] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        shapes[module] = list(args[0].shape)

    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network(fragment)
    for hook in hooks:
        hook.remove()
    return shapes


class PackedConvolution(nn.Module):
    """A convolution with its bias and perhaps the ReLU behind it; see ``residual.JoinedConvolution``."""

    def __init__(self, convolution: nn.Conv2d, shape: _Shape, relu: bool) -> None:
        super().__init__()
        places = (convolution.padding, convolution.stride, convolution.dilation)
        self.places = (*map(list, places), convolution.groups)
        self.weight = _onednn._reorder_convolution_weight(convolution.weight.detach(), *self.places, shape)
        self.bias = convolution.bias
        self.activation = "relu" if relu else "none"

    def forward(self, x: Tensor) -> Tensor:
        packed: Tensor = _onednn._convolution_pointwise(
            x, self.weight, self.bias, *self.places, self.activation, [], ""
        )
        return packed

    def onto(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """ReLU(convolution + shortcut), written over ``shortcut``."""
        total: Tensor = _onednn._convolution_pointwise_(
            shortcut, x, self.weight, self.bias, *self.places, "add", 1.0, "relu", [], ""
        )
        return total


class PackedLinear(nn.Module):
    """A linear layer and perhaps the GELU behind it."""

    def __init__(self, linear: nn.Linear, gelu: nn.GELU | None = None) -> None:
        super().__init__()
        self.weight = _onednn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias
        kind, algorithm = ("none", "") if gelu is None else ("gelu", gelu.approximate)
        self.activation: tuple[str, list[float], str] = (kind, [], algorithm)

    def forward(self, x: Tensor) -> Tensor:
        packed: Tensor = _onednn._linear_pointwise(x, self.weight, self.bias, *self.activation)
        return packed


def _is_plain_transformer(trunk: Any) -> bool:
    """Whether every block is timm's attention and its two linear layers, or three of which one is a gate.

    Told by names, because timm takes seconds to load and may not be loaded at all.
    """
    blocks = getattr(trunk, "blocks", None)
    return isinstance(blocks, Iterable) and all(
        _is_timms(getattr(block, "attn", None), "Attention") and _is_timms(getattr(block, "mlp", None), "Mlp", "SwiGLU")
        for block in blocks
    )


def _is_timms(layer: Any, *names: str) -> bool:
    kind = type(layer)
    return kind.__name__ in names and kind.__module__.startswith("timm.")


def _pack_transformer(trunk: Any, dtype: torch.dtype) -> None:
    """In bfloat16 attention goes through plain products, which a CPU does faster than torch's fused one."""
    for block in trunk.blocks:
        attention, mlp = block.attn, block.mlp
        attention.qkv, attention.proj = PackedLinear(attention.qkv), PackedLinear(attention.proj)
        attention.fused_attn = dtype == torch.float32
        if not hasattr(mlp, "fc1"):
            for name in ("fc1_g", "fc1_x", "fc2"):
                setattr(mlp, name, PackedLinear(getattr(mlp, name)))
            continue
        gelu = mlp.act if type(mlp.act) is nn.GELU else None
        mlp.fc1, mlp.fc2 = PackedLinear(mlp.fc1, gelu), PackedLinear(mlp.fc2)
        if gelu is not None:
            mlp.act = nn.Identity()
