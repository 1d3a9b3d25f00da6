"""Networks of timm and open_clip by name, described by a card: a TOML file, or the same as JSON in a manifest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mtembed.errors import UsageError
from mtembed.models.base import CARD_SUFFIX, LIBRARIES, KeyLayout, ModelSpec, PublishedWeights
from mtembed.models.card import Card, Input
from mtembed.sources import SOURCES
from mtembed.types import Normalisation, Source, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class Renamed:
    """Replaces regular expressions in the keys of a file, one after another.  ValueError where two keys become one."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self.pairs = pairs

    def __call__(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key, tensor in state.items():
            new = key
            for pattern, text in self.pairs:
                new = re.sub(pattern, text, new)
            if new in found:
                raise ValueError(f"rename turns two keys into {new}, one of them {key}")
            found[new] = tensor
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Renamed) and self.pairs == other.pairs

    __hash__ = None  # type: ignore[assignment]


def model(name: str, card: str | None) -> ModelSpec:
    """Return the model of a card: a TOML file (``card``, or ``name`` itself), or the JSON that a manifest keeps.

    Raises UsageError for a card that cannot be read or used, and for a network that its library does not have.
    """
    if card is not None and card.startswith("{"):
        return _spec(_card(json.loads(card), "the model card of the manifest"))
    if card is None and not name.endswith(CARD_SUFFIX):
        raise UsageError(f"{name} needs bands, normalisation and size: describe them in a file and give --model-card")
    path = Path(card or name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the model card {path} cannot be read ({error}): give a TOML file") from error
    if name.startswith(LIBRARIES):
        content = {"name": name.partition(":")[2].replace("/", "-"), **content, "network": name}
    content = {"name": path.stem, **content}
    given = _card(content, f"the model card {path}")
    return _spec(msgspec.structs.replace(given, **_looked_up(given)))


def _card(content: object, what: str) -> Card:
    try:
        card = msgspec.convert(content, Card)
    except msgspec.ValidationError as error:
        raise UsageError(f"{what} is not possible: {error}") from error
    problem = _problem(card)
    if problem:
        raise UsageError(f"{what} is not possible: {problem}")
    return card


def _problem(card: Card) -> str:
    """What makes a card of the right types impossible; nothing where there is nothing."""
    if not card.network.startswith(LIBRARIES) or not card.architecture:
        return f"network is {card.network!r}; write timm:NAME or open_clip:NAME"
    if not re.fullmatch(NAME, card.name):
        return f"name is {card.name!r}; use letters, digits, dots, hyphens and underscores"
    if card.size < 1 or card.patch < 0 or card.gpu_batch < 1 or card.cpu_batch < 1:
        return "size and batches must be 1 or more, patch 0 or more"
    if not card.sources:
        return "it names no sources; write a table such as [sources.S2L2A]"
    for pattern, _ in card.rename:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"{pattern!r} in rename is no regular expression ({error})"
    return next(filter(None, (_input_problem(name, one) for name, one in card.sources.items())), "")


def _input_problem(source: Source, given: Input) -> str:
    known = SOURCES[source].bands
    wrong = [band for band in given.bands if band not in known]
    if wrong or not given.bands or len(set(given.bands)) < len(given.bands):
        named = f", not {wrong[0]}" if wrong else ""
        return f"bands of {source} must be some of {' '.join(known)}, each once{named}"
    needed = 0 if given.rule == "reflectance" else len(given.bands)
    if len(given.mean) != needed or len(given.std) != needed:
        return f"{given.rule} of {source} needs {needed} values of mean and of std, one for each band"
    if not all(abs(value) < float("inf") for value in (*given.mean, *given.std)) or min(given.std, default=1) <= 0:
        return f"mean of {source} must be finite, std finite and above 0"
    return ""


def _looked_up(card: Card) -> dict[str, int]:
    """The network's width and number of parameters, by a process of its own: its library loads torch."""
    path = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(  # -P: a folder of the user's called timm is not the library
        [sys.executable, "-P", "-W", "ignore", "-m", "mtembed.models.networks_custom"],
        input=msgspec.json.encode(card),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
        said = {"problem": lines[-1]}
    if "problem" in said:
        raise UsageError(f"{card.network} cannot be built: {said['problem']}")
    return {"dim": int(said["dim"]), "parameters": int(said["parameters"])}


def load(spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module:
    """Build the network of the card; the library's own rules say which sizes fit."""
    from mtembed.models.networks_custom import build

    return build(_card(json.loads(spec.card), "the model card"), spec.layouts, source, weights, size)


def _spec(card: Card) -> ModelSpec:
    first, *others = card.sources
    layouts = [KeyLayout("card", prefix=card.prefix, dropped=card.drop, rename=Renamed(card.rename))]
    if card.library == "open_clip":
        beside = ("text.*", "logit_*", "transformer.*", "token_embedding.*", "positional_embedding", "text_projection")
        whole = KeyLayout("open_clip", mark="visual.", prefix="visual.", dropped=(*beside, "ln_final.*", "attn_mask"))
        layouts.insert(0, whole)
    return ModelSpec(
        name=card.name,
        title=card.title or f"{card.architecture} of {card.library}",
        architecture=card.architecture,
        source=first,
        also=tuple(others),
        bands={source: one.bands for source, one in card.sources.items()},
        normalisations={source: Normalisation(one.rule, one.mean, one.std) for source, one in card.sources.items()},
        size=card.size,
        patch=card.patch,
        smallest=card.patch or card.size,
        dim=card.dim,
        parameters=card.parameters,
        half=card.half,
        gpu_batch=card.gpu_batch,
        cpu_batch=card.cpu_batch,
        licence=card.licence,
        citation=card.citation,
        published=PublishedWeights("user", "", card.file, card.page) if card.file else None,
        layouts=tuple(layouts),
        loader=load,
        engines=("torch",),
        text=card.architecture if card.library == "open_clip" else None,
        offset=card.offset,
        card=msgspec.json.encode(card, order="sorted").decode(),
    )
