"""Words as vectors: the text tower that was trained beside a model's visual one, by open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mtembed.errors import WeightsError
from mtembed.models.base import KeyLayout, ModelSpec
from mtembed.models.weights import read_state, resolve
from mtembed.types import FloatArray

LAYOUT = KeyLayout("open_clip", mark="text.", prefix="text.", dropped=("visual.*", "logit_*"))


def text_vector(spec: ModelSpec, weights: str | None, words: str) -> FloatArray:
    """The vector of some words, float32 [D].

    Raises WeightsError for a file without a text tower, and where the tokenizer cannot be had.
    """
    import open_clip

    assert spec.text is not None
    config = open_clip.get_model_config(spec.text)
    found = resolve(spec, weights, accepted=True)  # as when the dataset was made
    if found.path is None:
        raise WeightsError(
            f"--text needs trained weights of {spec.name}, and these are {found.label}: embed with a file"
        )
    tower = text_tower(config["text_cfg"], config["embed_dim"])
    tower.load_state_dict(_state(found.path, tower), assign=True)
    tokens = _tokenizer(spec.text)([words])
    with torch.inference_mode():
        return tower(tokens)[0].float().numpy()  # type: ignore[no-any-return]


def text_tower(text: Mapping[str, Any], dim: int) -> nn.Module:
    """open_clip's text network of a model's ``text_cfg``, in eval mode, without memory for its weights."""
    from functools import partial

    from open_clip.transformer import LayerNorm, TextTransformer

    names = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "pool_type")
    more = ("proj_bias", "pad_id", "proj_type", "ls_init_value")
    options = {name: text[name] for name in (*names, *more) if name in text}
    norm = partial(LayerNorm, **text.get("norm_kwargs", {}))
    with torch.device("meta"):
        tower: nn.Module = TextTransformer(output_dim=dim, norm_layer=norm, **options)
    return tower.eval()


def _state(path: Any, tower: nn.Module) -> dict[str, torch.Tensor]:
    expected = tower.state_dict()

    def require_tower(state: Mapping[str, torch.Tensor]) -> None:
        if any(key not in state or state[key].shape != tensor.shape for key, tensor in expected.items()):
            raise WeightsError(
                f"{path.name} has no text tower (the visual tower alone is published under the same name): give "
                "--weights the open_clip file of the model"
            )

    return read_state(path, (LAYOUT, KeyLayout("none", dropped=("*",))), require_tower)


def _tokenizer(name: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # the hub's libraries have no error in common
        raise WeightsError(
            f"the tokenizer of {name} cannot be had ({type(error).__name__}): start once with a network, or copy "
            "$HF_HOME from a machine that did"
        ) from error
