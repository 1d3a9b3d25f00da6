"""The dataset card of an output folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render(manifest: Mapping[str, Any]) -> str:
    """Markdown with Hugging Face front matter, from the manifest alone."""
    return f"# {manifest['model']['title']}\n"
