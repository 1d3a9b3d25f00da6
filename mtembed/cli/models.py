"""The models as a table, and what ``mtembed models --check`` finds.  Returns text and plain data, prints nothing."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from mtembed import models
from mtembed.models import ModelSpec, weights
from mtembed.models.base import ConstantImage, check
from mtembed.types import Weights

WIDE = 160  # columns where the output is not a terminal
HEADINGS = ("name", "network", "sources", "bands", "px", "D", "weights file", "licence")


def facts() -> list[dict[str, Any]]:
    """One plain record for each model."""
    return [_facts(models.get(name)) for name in models.names()]


def _facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "network": spec.architecture,
        "source": spec.source,
        "bands": {source: list(bands) for source, bands in spec.bands.items()},
        "size": spec.size,
        "dim": spec.dim,
        "parameters": spec.parameters,
        "weights": spec.published.file if spec.published else None,
        "page": spec.published.page if spec.published else None,
        "licence": spec.licence,
        "citation": spec.citation,
    }


def table() -> str:
    """All models, as wide as the terminal."""
    return render(HEADINGS, [_row(models.get(name)) for name in models.names()])


def _row(spec: ModelSpec) -> tuple[str, ...]:
    bands = spec.bands[spec.source]
    shown = " ".join(bands) if len(bands) < 4 else f"{len(bands)}, {bands[0]} to {bands[-1]}"
    sources = ", ".join(sorted(spec.bands, key=lambda source: source != spec.source))
    network = "random filters" if spec.kind == "rcf" else spec.architecture
    file = spec.published.file if spec.published else "none needed"
    return (spec.name, network, sources, shown, str(spec.size), str(spec.dim), file, spec.licence)


def check_model(name: str, option: str | None) -> dict[str, Any]:
    """Load a model's weights and embed constant images.  Raises UsageError and WeightsError."""
    spec = models.get(name)
    found = weights.resolve(spec, option)
    images = check(spec, found)
    problems = _problems(images)
    return {
        "name": name,
        "weights": found.label,
        "sha256": found.sha256,
        "random": _random(spec, found),
        "behaves": not problems,
        "problems": problems,
        "images": [dataclasses.asdict(image) for image in images],
    }


def _random(spec: ModelSpec, found: Weights) -> bool:
    """Random weights stand in for trained ones; random convolution features have no others."""
    return found.seed is not None and spec.published is not None


def _problems(images: Sequence[ConstantImage]) -> list[str]:
    problems = [f"the vector of {image.image} is not finite" for image in images if not image.finite]
    if not problems and len({(image.norm, image.values) for image in images}) < len(images):
        problems.append("different images give one vector")
    return problems


def check_text(result: dict[str, Any]) -> str:
    """The outcome of ``check_model`` as a table and a sentence."""
    rows = [_image_row(image) for image in result["images"]]
    lines = [f"{result['name']} with {result['weights']}" + (f", sha256 {result['sha256']}" * bool(result["sha256"]))]
    headings = ("constant image", "norm", "first values", "from the published vector of a white fragment")
    lines += ["", render(headings, rows), ""]
    if result["random"]:
        lines.append("These weights are RANDOM: good for tests and benchmarks, not for embeddings that mean something.")
    lines.append("It behaves." if result["behaves"] else f"It does not behave: {'; '.join(result['problems'])}.")
    return "\n".join(lines)


def _image_row(image: dict[str, Any]) -> tuple[str, ...]:
    values = " ".join(f"{value:.4g}" for value in image["values"])
    distance = "-" if image["from_oracle"] is None else f"{image['from_oracle']:.2%}"
    return image["image"], f"{image['norm']:.4f}", values, distance


def render(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns as plain text, wrapped to the terminal's width."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=shutil.get_terminal_size((WIDE, 24)).columns).print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
