"""Networks of timm and open_clip as a card describes them; run as a module it looks up a network's own numbers."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mtembed.models.base import KeyLayout
from mtembed.models.card import Card
from mtembed.models.networks import Embedder, filled
from mtembed.types import Source, Weights


class Pooled(Embedder):
    """A network of timm: ``network`` is its own pooling, ``mean`` over all positions, ``class`` the first token."""

    def __init__(self, trunk: Any, pooling: str) -> None:
        super().__init__(trunk)
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_trunk(x)
        if self.pooling == "network":
            return self.trunk(x).float()  # type: ignore[no-any-return]
        features: Tensor = self.trunk.forward_features(x)
        if self.pooling == "class":
            return features[:, 0].float()
        if features.ndim == 4:
            features = features.flatten(1, 2) if _channels_last(self.trunk) else features.flatten(2).transpose(1, 2)
        return features.mean(1, dtype=torch.float32)


def _channels_last(trunk: Any) -> bool:
    """Whether a network's map is [n, h, w, D]."""
    return str(getattr(trunk, "output_fmt", "NCHW")).endswith("NHWC")


class Tower(Embedder):
    """The visual tower of an open_clip pair, its projection included; vectors are not brought to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.to_trunk(x)).float()  # type: ignore[no-any-return]


def build(card: Card, layouts: Iterable[KeyLayout], source: Source, weights: Weights, size: int) -> nn.Module:
    """The network of a card.  Raises ``WeightsError`` for weights that do not fit, and what the library raises."""

    channels = len(card.sources[source].bands)
    trunk = filled(lambda: _network(card, channels, size), weights, layouts)
    return Tower(trunk) if card.library == "open_clip" else Pooled(trunk, card.pooling)


def _network(card: Card, channels: int, size: int) -> Any:
    if card.library == "open_clip":
        import open_clip

        config = open_clip.get_model_config(card.architecture)
        if config is None:
            raise ValueError(_unknown(card, open_clip.list_models()))
        return open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    import timm

    if not timm.is_model(card.architecture):
        raise ValueError(_unknown(card, timm.list_models()))
    options: dict[str, Any] = {"in_chans": channels, **card.options}
    if size != card.size and "img_size" in options:
        options["img_size"] = size
    return timm.create_model(card.architecture, pretrained=False, num_classes=0, **options)


def _unknown(card: Card, known: list[str]) -> str:
    near = difflib.get_close_matches(card.architecture, known, 3)
    return f"{card.library} has no network of that name" + (f"; did you mean {' or '.join(near)}?" if near else "")


def numbers(card: Card) -> dict[str, int | str]:
    """``dim`` and ``parameters`` of a card's network for its first source, or a ``problem``."""
    channels = len(next(iter(card.sources.values())).bands)
    try:
        with torch.device("meta"):
            trunk = _network(card, channels, card.size).eval()
            whole = Tower(trunk) if card.library == "open_clip" else Pooled(trunk, card.pooling)
            vectors = whole(torch.zeros(1, channels, card.size, card.size))
    except Exception as error:  # the libraries raise whatever they like about options that do not fit
        return {"problem": " ".join(str(error).split()) or type(error).__name__}
    if vectors.ndim != 2:
        return {"problem": f"it gives {tuple(vectors.shape[1:])} values for a fragment, not a vector: choose a pooling"}
    return {"dim": vectors.shape[1], "parameters": sum(tensor.numel() for tensor in trunk.parameters())}


if __name__ == "__main__":
    import msgspec

    sys.stdout.write(json.dumps(numbers(msgspec.json.decode(sys.stdin.buffer.read(), type=Card))))
