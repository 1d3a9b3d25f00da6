"""Tests that need a GPU: they are left out, with the reason, where torch can use none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def why_not() -> str:
    """Why no GPU can be used here; nothing where one can."""
    if torch.version.cuda is None:
        return "this build of torch is for CPUs only"
    try:
        torch.zeros(1, device="cuda").add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        return f"torch can use no GPU here ({str(error).partition(chr(10))[0]})"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = why_not() if mine else ""
    if reason:
        for item in mine:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _prepared() -> Iterator[None]:
    from mtembed.engine.arithmetic import exact_fp32

    exact_fp32()
    with torch.inference_mode():
        yield
