"""Damaged and hostile files in an output folder: a few of what ``tests/fuzz_output.py`` and ``flip_output.py`` try."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mtembed.check.verify import sentence, verify
from tests.flip_output import FILES, campaign
from tests.fuzz_output import KINDS
from tests.tools.hostile import Mutation


@pytest.mark.parametrize("name, mutation", KINDS[:4], ids=[name for name, _ in KINDS[:4]])
def test_verify_ends_with_a_verdict(root: Path, name: str, mutation: Mutation, tmp_path: Path) -> None:
    for number in range(15):
        copy = Path(shutil.copytree(root, tmp_path / f"copy-{number}"))
        mutation(np.random.default_rng([7, number]), copy / name)
        verdict = verify(copy)
        assert sentence(verdict) and "\n".join(verdict.lines()).isprintable() == (len(verdict.lines()) < 2)


def test_no_flipped_bit_goes_unnoticed(root: Path) -> None:
    tally = campaign(root, 50, seed=2)
    assert {what for _, what in tally} <= {"noticed", "noted", "harmless"}
    assert sum(tally.values()) == 50 and {name for name, _ in tally} == set(FILES)
