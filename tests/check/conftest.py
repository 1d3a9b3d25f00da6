"""A finished dataset for the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tools.datasets import Made, make_dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_dataset(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def root(made: Made, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made.root, tmp_path / "out"))
