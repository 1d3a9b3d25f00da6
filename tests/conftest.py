"""Fixtures shared by all tests: the packaged sample, the larger shared data where present, tiny synthetic shards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    """Tests that run side by side share the machine as several processes on one are told to."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        os.environ.setdefault("MTEMBED_SHARE_OF_MACHINE", f"{1 / workers:g}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that lies beside the checkout on development machines."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared test data is not beside this checkout")
    return SHARED
