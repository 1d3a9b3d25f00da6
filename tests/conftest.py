"""Fixtures shared by all tests: the packaged sample, the larger shared data where present, tiny synthetic shards."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that lies beside the checkout on development machines."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared test data is not beside this checkout")
    return SHARED
