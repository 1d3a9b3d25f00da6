"""Problems are kept by kind, a few of each, and all of them are counted."""

from __future__ import annotations

from pathlib import Path

from mtembed.check.verify import sentence, verify
from tests.tools.damages import edit


def test_many_problems_of_a_kind_are_counted(root: Path) -> None:
    edit("unique_id", dict.fromkeys(range(20), "0" * 64))(root)
    verdict = verify(root)
    assert verdict.counts == {"unique_id": 20}
    assert len(verdict.problems) == 5
    assert verdict.lines()[-2] == "... and 15 more problems of this kind (unique_id)"
    assert sentence(verdict).startswith("20 problems: 45 embeddings")
