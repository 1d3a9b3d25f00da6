"""What the tests of networks share: little networks with timm's names, images, shaken weights, and their error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mtembed import models
from mtembed.models.base import ModelSpec
from mtembed.types import Weights

PARITY = 1e-5
State = dict[str, torch.Tensor]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative L2 error of rows."""
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def image(spec: ModelSpec, n: int = 2, size: int = 0, source: Any = None) -> torch.Tensor:
    channels = len(spec.bands[source or spec.source])
    return torch.rand(n, channels, size or spec.size, size or spec.size, generator=torch.Generator().manual_seed(n))


def shaken(state: State, seed: int = 5) -> State:
    """Return the state with every tensor random, so that no layer hides behind its initial zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            continue
        if tensor.ndim > 1 and "embed" not in key and "token" not in key and "latent" not in key:
            result[key] = noise / tensor[0].numel() ** 0.5
        elif key.endswith(("running_var", "norm1.weight", "norm2.weight", "norm.weight")) or "bn" in key:
            result[key] = 1 + 0.2 * noise.clamp(-3, 3)
        else:
            result[key] = 0.3 * noise
    return result


def from_file(spec: ModelSpec, state: State, path: Path, **options: Any) -> torch.nn.Module:
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return spec.build(Weights(path.name, "", path, None), **options)


def small_dinov2() -> Any:
    """Register a DINOv2 of two blocks with timm and return its record: the loader does not know the depth."""
    import timm
    from timm.models.vision_transformer import _create_vision_transformer

    def vit_test_dinov2(pretrained: bool = False, **more: Any) -> Any:
        options = {"patch_size": 14, "embed_dim": 96, "depth": 2, "num_heads": 3, "init_values": 1e-5, "img_size": 518}
        return _create_vision_transformer("vit_base_patch14_dinov2", pretrained=pretrained, **{**options, **more})

    if not timm.is_model("vit_test_dinov2"):
        timm.models.register_model(vit_test_dinov2)
    return replace(models.get("dinov2"), architecture="vit_test_dinov2", dim=96)


def small_siglip() -> Any:
    """Register a SigLIP of two blocks (of true width and 729 tokens) with timm and return its record."""
    import timm
    from timm.models.vision_transformer import vit_so400m_patch14_siglip_384

    def vit_test_siglip(pretrained: bool = False, **more: Any) -> Any:
        return vit_so400m_patch14_siglip_384(pretrained=pretrained, **{"depth": 2, **more})

    if not timm.is_model("vit_test_siglip"):
        timm.models.register_model(vit_test_siglip)
    return replace(models.get("siglip"), architecture="vit_test_siglip")
