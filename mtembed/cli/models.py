"""``mtembed models``: the list, and ``--check`` for one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Talk

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mtembed.models import ModelSpec
    from mtembed.models.check import ConstantImage
    from mtembed.types import Weights

HEADINGS = ("name", "network", "sources", "bands", "px", "D", "licence", "from", "weights file")
RANDOM = "These weights are RANDOM: good for tests and benchmarks, not for embeddings that mean something."


def models(
    *,
    check: Annotated[
        str | None, Parameter(name="--check", help="Load this model's weights and embed known constant images.")
    ] = None,
    weights: Annotated[str | None, Parameter(help="With --check: a weights file, or random:SEED.")] = None,
    model_card: Annotated[str | None, Parameter(help="With --check timm:NAME: the card that describes it.")] = None,
    accept_licence: Annotated[bool, Parameter(help="With --check: as for a run.", negative="")] = False,
    talk: Talk = SPEECH,
) -> int:
    """List the models, or check one."""
    if check is None:
        talk.show(listed(), facts())
        return 0
    result = check_model(check, weights, model_card, accept_licence)
    talk.show(checked(result), [result])
    return 0 if result["behaves"] else 1


def specs() -> list[ModelSpec]:
    """Every model's record, by name."""
    from mtembed import models as registry

    return [registry.get(name) for name in registry.names()]


def facts() -> list[dict[str, Any]]:
    """One plain record for each model."""
    return [_facts(spec) for spec in specs()]


def _facts(spec: ModelSpec) -> dict[str, Any]:
    from mtembed.models import origin

    return {
        "name": spec.name,
        "title": spec.title,
        "network": spec.architecture,
        "source": spec.source,
        "bands": {source: list(bands) for source, bands in spec.bands.items()},
        "size": spec.size,
        "dim": spec.dim,
        "dense": spec.layout is not None,
        "parameters": spec.parameters,
        "weights": spec.published.file if spec.published else None,
        "page": spec.published.page if spec.published else None,
        "licence": spec.licence,
        "terms": spec.terms or None,
        "from": origin(spec),
        "citation": spec.citation,
    }


def listed() -> RenderableType:
    """All models as a table; where the terminal is narrow, a record for each."""
    from mtembed.cli.tables import Columns

    return Columns(
        HEADINGS, [_row(spec) for spec in specs()], numbers=("px", "D"), optional=("weights file", "from", "network")
    )


def _row(spec: ModelSpec) -> tuple[str, ...]:
    from mtembed.models import origin

    bands = spec.bands[spec.source]
    shown = " ".join(bands) if len(bands) < 4 else f"{len(bands)}, {bands[0]} to {bands[-1]}"
    sources = ", ".join(sorted(spec.bands, key=lambda source: source != spec.source))
    network = spec.architecture if spec.trained else "random filters"
    file = spec.published.file if spec.published else "none needed"
    return (spec.name, network, sources, shown, str(spec.size), str(spec.dim), spec.licence, origin(spec), file)


def check_model(name: str, option: str | None, card: str | None = None, accept_licence: bool = False) -> dict[str, Any]:
    """Load a model's weights and embed constant images.  Raises UsageError and WeightsError."""
    from mtembed import models as registry
    from mtembed.models import weights
    from mtembed.models.check import check

    spec = registry.get(name, card)
    found = weights.resolve(spec, option, accept_licence)
    images = check(spec, found)
    problems = _problems(images)
    return {
        "name": spec.name,
        "weights": found.label,
        "sha256": found.sha256,
        "random": _random(spec, found),
        "behaves": not problems,
        "problems": problems,
        "images": [dataclasses.asdict(image) for image in images],
    }


def _random(spec: ModelSpec, found: Weights) -> bool:
    """Whether random weights stand in for trained ones."""
    return found.seed is not None and spec.trained


def _problems(images: Sequence[ConstantImage]) -> list[str]:
    problems = [f"the vector of {image.image} is not finite" for image in images if not image.finite]
    if not problems and len({(image.norm, image.values) for image in images}) < len(images):
        problems.append("different images give one vector")
    return problems


def checked(result: dict[str, Any]) -> RenderableType:
    """The outcome of ``check_model`` as a table and a sentence."""
    from rich.console import Group

    from mtembed.cli.tables import Columns, lines

    heading = f"{result['name']} with {result['weights']}"
    headings = ("constant image", "norm", "first values", "from the published vector")
    table = Columns(headings, [_image_row(image) for image in result["images"]], numbers=("norm",))
    verdict = "It behaves." if result["behaves"] else f"It does not behave: {'; '.join(result['problems'])}."
    return Group(
        lines(heading, *([f"sha256 {result['sha256']}"] if result["sha256"] else []), ""),
        table,
        lines("", *([RANDOM] if result["random"] else []), verdict),
    )


def _image_row(image: dict[str, Any]) -> tuple[str, ...]:
    values = " ".join(f"{value:.4g}" for value in image["values"])
    distance = "-" if image["from_oracle"] is None else f"{image['from_oracle']:.2%}"
    return image["image"], f"{image['norm']:.4f}", values, distance
