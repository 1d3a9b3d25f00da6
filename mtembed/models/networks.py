"""The torch side of the models: networks from weights, poolings in float32, and their preparation for an engine.

Every network here keeps its bulk in ``trunk``, which ``optimise`` may cast to 16 bit; what follows it (the last norm,
the pooling) computes in float32 always, and the output is float32 [n, D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtembed.models.weights import read_state, require_fit
from mtembed.types import FloatArray

if TYPE_CHECKING:
    from mtembed.models.base import KeyLayout, ModelSpec
    from mtembed.types import Weights

State = dict[str, Tensor]

# Values of one convolution output that stay in a core's L2 cache, and those that fit a GPU's memory beside the rest.
_CPU_VALUES = 450_000
_GPU_VALUES = 256_000_000


# Weights


def timm_network(
    spec: ModelSpec,
    weights: Weights,
    options: dict[str, Any],
    changes: dict[str, Any] | None = None,
    native: dict[str, Any] | None = None,
    *,
    adapt: Callable[[State], State] = lambda state: state,
) -> Any:
    """Return timm's network, eval mode, float32, CPU, filled from a file or from a seed.

    ``options`` are timm's for every network, ``native`` more of them for the one as published, which a seed draws too,
    and ``changes`` for the network wanted, to which ``adapt`` fits the native tensors.  Raises ``WeightsError`` for
    weights that do not fit.
    """
    import timm

    def network(**more: Any) -> Any:
        return timm.create_model(spec.architecture, pretrained=False, num_classes=0, **options, **more)

    return filled(network, weights, spec.layouts, changes, native, adapt=adapt)


def filled(
    network: Callable[..., nn.Module],
    weights: Weights,
    layouts: Iterable[KeyLayout],
    changes: dict[str, Any] | None = None,
    native: dict[str, Any] | None = None,
    *,
    adapt: Callable[[State], State] = lambda state: state,
) -> Any:
    """Return ``network(**changes)``, eval mode, float32, CPU, filled from a file or from a seed.

    A seed draws ``network(**native)``, whose tensors ``adapt`` fits to the network wanted, as it does those of a file.
    Raises ``WeightsError`` for weights that do not fit.
    """
    with torch.device("meta"):
        wanted = network(**(changes or {}))
    if weights.path is not None:
        expected = wanted.state_dict()
        state = read_state(
            weights.path, layouts, fits=lambda shapes: require_fit(adapt(shapes), expected, weights.label)
        )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights.seed or 0)
            state = network(**(native or {})).state_dict()
    fill(wanted, adapt(state), weights.label)
    if any(table.is_meta for table in wanted.buffers()):
        _restore_tables(wanted, network(**(changes or {})))
    return wanted


def _restore_tables(network: nn.Module, real: nn.Module) -> None:
    """Take from ``real`` the buffers that no file holds, such as rotations of positions, where they are missing."""
    for name, table in real.named_buffers():
        parent, _, last = name.rpartition(".")
        if network.get_buffer(name).is_meta:
            network.get_submodule(parent).register_buffer(last, table, persistent=False)


def fill(network: nn.Module, state: Mapping[str, Tensor], name: str) -> nn.Module:
    """Give a network (on the meta device) its tensors, and return it frozen and in eval mode.

    ``name`` names the weights in the ``WeightsError`` that is raised if they do not fit.
    """
    expected = network.state_dict()
    require_fit(state, expected, name)
    counters = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    network.load_state_dict({**state, **counters}, assign=True)
    return network.eval().requires_grad_(False)


def resampled_positions(state: State, grid: int, prefix: int) -> State:
    """Return ``state`` with ``pos_embed`` [1, prefix + g * g, D] resampled to ``grid`` squared positions.

    Bicubic to the exact size, corners not aligned and no antialias, as transformers does; timm's own resampling
    smooths and changes DINOv2's vectors by 2.8 %.  The ``prefix`` tokens (class token) stay as they are.
    """
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return state
    native = int((positions.shape[1] - prefix) ** 0.5)
    if native == grid or native < 1 or prefix + native**2 != positions.shape[1]:
        return state
    plane = positions[:, prefix:].reshape(1, native, native, -1).permute(0, 3, 1, 2)
    plane = functional.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False, antialias=False)
    plane = plane.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    return {**state, "pos_embed": torch.cat([positions[:, :prefix], plane], dim=1)}


# Networks


class Embedder(nn.Module):
    """A network whose ``trunk`` may run in 16 bit: [n, C, size, size] -> float32 [n, D]."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.eval()

    def to_trunk(self, x: Tensor) -> Tensor:
        """Return ``x`` in the trunk's type."""
        return x.to(next(self.trunk.parameters()).dtype)

    def fold(self) -> None:
        """Merge operations that are linear in a row; the result differs by float32 rounding only."""


class PooledMap(Embedder):
    """The last feature map of a network of convolutions, averaged over its positions in float32."""

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk.forward_features(self.to_trunk(x))
        return features.mean((2, 3), dtype=torch.float32)

    def dense(self, x: Tensor) -> Tensor:
        """The map itself, float32 [n, rows, columns, D]."""
        features: Tensor = self.trunk.forward_features(self.to_trunk(x))
        return features.permute(0, 2, 3, 1).float()

    def fold(self) -> None:
        for parent, convolution, norm in list(_normed_convolutions(self.trunk)):
            setattr(parent, convolution, _folded(getattr(parent, convolution), getattr(parent, norm)))
            setattr(parent, norm, nn.Identity())


class Tokens(Embedder):
    """A ViT whose last norm is in float32."""

    def __init__(self, trunk: Any) -> None:
        super().__init__(trunk)
        self.norm = trunk.norm
        trunk.norm = nn.Identity()

    def tokens(self, x: Tensor) -> Tensor:
        """All tokens after the last norm, float32 [n, t, D]."""
        tokens: Tensor = self.norm(self.trunk.forward_features(self.to_trunk(x)).float())
        return tokens


class TokenMean(Tokens):
    """The mean of all tokens of a ViT but the first ``skipped``, class token included, in float32."""

    def __init__(self, trunk: Any, skipped: int = 0) -> None:
        super().__init__(trunk)
        self.skipped = skipped

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, self.skipped :].mean(1)

    def dense(self, x: Tensor) -> Tensor:
        """The tokens of a square of patches, float32 [n, rows, columns, D]."""
        tokens = self.tokens(x)[:, self.skipped :]
        side = round(tokens.shape[1] ** 0.5)
        return tokens.reshape(len(tokens), side, side, -1)


class ClassToken(Tokens):
    """A ViT's class token."""

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, 0]


class LatentPooled(Embedder):
    """A ViT's tokens after the last norm, pooled by attention from one learnt query; both in float32."""

    def __init__(self, trunk: Any) -> None:
        super().__init__(trunk)
        self.norm, self.pool = trunk.norm, trunk.attn_pool
        trunk.norm, trunk.attn_pool = nn.Identity(), None

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.trunk.forward_features(self.to_trunk(x))
        pooled: Tensor = self.pool(self.norm(tokens.float()))
        return pooled

    def fold(self) -> None:
        if not isinstance(self.pool, LatentPool):
            self.pool = LatentPool(self.pool)


class LatentPool(nn.Module):
    """timm's ``AttentionPoolLatent`` for a single query, tokens [n, t, D] -> [n, D], with 1/70 of the arithmetic.

    The query is a constant, so its product with the key projection is too: one vector per head that each token is
    multiplied with.  The value projection is linear and comes after the weighted sum instead of before.  The key's bias
    adds the same to every score of a head and cancels in the softmax.
    """

    keys: Tensor
    value: Tensor
    bias: Tensor

    def __init__(self, pool: Any) -> None:
        super().__init__()
        heads, dim = pool.num_heads, pool.kv.in_features
        key, value = pool.kv.weight.detach().double().reshape(2, heads, dim // heads, dim)
        query = pool.q(pool.latent[0]).detach().double().reshape(heads, dim // heads) * pool.scale
        self.register_buffer("keys", torch.einsum("hd,hdc->ch", query, key).float())
        self.register_buffer("value", value.float())
        self.register_buffer("bias", pool.kv.bias.detach()[dim:].clone())
        self.proj, self.norm, self.mlp = pool.proj, pool.norm, pool.mlp

    def forward(self, x: Tensor) -> Tensor:
        attention = (x @ self.keys).softmax(dim=1)
        gathered = attention.transpose(1, 2) @ x
        pooled = torch.einsum("nhc,hdc->nhd", gathered, self.value).flatten(1) + self.bias
        projected: Tensor = self.proj(pooled)
        refined: Tensor = projected + self.mlp(self.norm(projected))
        return refined


class RandomConvolutions(Embedder):
    """Means of ReLU(c) and ReLU(-c) over the convolution c = filters * x + bias without padding (torchgeo's RCF).

    ``filters`` is float32 [F, C, k, k]; the output is [n, 2 F].  On a CPU the convolution goes through each image in
    strips of rows, small enough to be summed up while still in the cache (4 times faster than whole images).
    """

    def __init__(self, filters: FloatArray, bias: float) -> None:
        features, channels, side, _ = filters.shape
        trunk = nn.Conv2d(channels, features, side, device="meta")
        state = {"weight": torch.from_numpy(filters), "bias": torch.full((features,), bias)}
        super().__init__(fill(trunk, state, "rcf"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_trunk(x)
        features, _, side, _ = self.trunk.weight.shape
        rows, cols = x.shape[2] - side + 1, x.shape[3] - side + 1
        if x.is_cuda:
            images, strip = max(1, _GPU_VALUES // (features * rows * cols)), rows
        else:
            images, strip = 1, max(1, _CPU_VALUES // (features * cols))
        sums: Tensor = x.new_zeros((len(x), 2 * features), dtype=torch.float32)
        for image in range(0, len(x), images):
            image = max(0, min(image, len(x) - images))  # one shape for all, so that all have the same bits
            total = sums[image : image + images].zero_()
            for row in range(0, rows, strip):
                part = x[image : image + images, :, row : row + strip + side - 1]
                total += _rectified_sums(self.trunk(part))
        means: Tensor = sums / (rows * cols)
        return means


def _rectified_sums(c: Tensor) -> Tensor:
    """Return the sums over rows and columns of ReLU(c) and ReLU(-c): [n, F, h, w] -> float32 [n, 2 F]."""
    positive = c.clamp_min(0).sum((2, 3), dtype=torch.float32)
    negative = c.clamp_max(0).sum((2, 3), dtype=torch.float32)
    return torch.cat([positive, -negative], dim=1)


class BandStatistics(Embedder):
    """Means, then standard deviations (divided by the number of pixels), of each band: [n, 2 C], in float32."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = zip(*(_statistics(image) for image in x), strict=True)  # one by one: bits know no batch mates
        return torch.cat([torch.stack(mean), torch.stack(spread)], dim=1)


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations and means of [C, h, w], float32 [C] each."""
    return torch.std_mean(image.float().flatten(1).contiguous(), dim=1, correction=0)


# Preparation for an engine


def optimise(network: nn.Module, dtype: torch.dtype, channels_last: bool) -> nn.Module:
    """Prepare a network made by ``ModelSpec.build`` for speed, in place, and return it.

    Linear operations are folded in float64 arithmetic, then the trunk's weights are cast to ``dtype`` and laid out;
    last norm, pooling and output stay float32.  Move it to its device afterwards.
    """
    if not isinstance(network, Embedder):
        raise TypeError(f"optimise takes an Embedder, not {type(network).__name__}")
    network.fold()
    memory = torch.channels_last if channels_last else torch.contiguous_format
    network.trunk.to(dtype=dtype, memory_format=memory)
    return network


def _normed_convolutions(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield (parent, name, name) of each convolution whose next sibling is a batch norm."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (first, convolution), (second, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield parent, first, second


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the convolution that does the work of both, its weights computed in float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    bias = norm.bias.double() - mean.double() * scale
    if convolution.bias is not None:
        bias = bias + convolution.bias.double() * scale
    convolution.weight = nn.Parameter(
        (convolution.weight.double() * scale[:, None, None, None]).float(), requires_grad=False
    )
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)
    return convolution
