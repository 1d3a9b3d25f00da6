"""Tables fit their terminal: a column less, a folded text, or a record for each row; what they hold is plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.cli.tables import Columns, lines, pairs, shared
from tests.tools.screens import screen

HEADINGS = ("name", "network", "bands", "D")
ROWS = [("dinov2", "vit_base_patch14_dinov2", "B04 B03 B02", "768"), ("rcf", "random filters", "13", "512")]


def table(width: int, **options: object) -> list[str]:
    shown = screen(Columns(HEADINGS, ROWS, numbers=("D",), **options), width)  # type: ignore[arg-type]
    return [line.rstrip() for line in shown.splitlines()]


def test_a_wide_terminal_shows_a_line_per_row() -> None:
    first, second, third = table(80)
    assert first.split() == list(HEADINGS)
    assert second.endswith("768") and third.endswith("512")


def test_optional_columns_are_left_out_before_it_comes_to_records() -> None:
    found = table(40, optional=("network",))
    assert "network" not in found[0] and len(found) >= 4
    assert "network: shown where the terminal is wider" in " ".join(found)


def test_a_narrow_terminal_shows_a_record_per_row() -> None:
    found = table(24)
    assert found[0] == "dinov2" and any(line.split() == ["D", "768"] for line in found)


def test_a_long_last_text_is_folded_under_its_heading() -> None:
    shown = screen(Columns(("stage", "error"), [("decode", "word " * 30)]), 40).splitlines()
    assert len(shown) > 3 and all(len(line) <= 40 for line in shown)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=80)), min_size=1, max_size=5), st.integers(12, 120))
def test_no_text_breaks_out_of_a_table(rows: list[tuple[str, str]], width: int) -> None:
    for shown in (Columns(("a", "b"), rows), pairs(rows), lines(*(text for row in rows for text in row))):
        text = screen(shown, width)
        assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text


@pytest.mark.parametrize("name", ["[/bold]", "[link=x]y", "[red]a"])
def test_markup_is_text(name: str) -> None:
    assert name in screen(Columns(("column", "type"), [(name, "int64")]), 60)
    assert name in screen(lines(name), 60) and name in screen(pairs([(name, name)]), 60)


def test_what_all_rows_share_is_said_once() -> None:
    rows = [["B02", "uint16", "10 m"], ["B05", "uint16", "20 m"]]
    phrase, headings, kept = shared(("band", "type", "pixel"), rows)
    assert (phrase, headings, kept) == ("type uint16", ["band", "pixel"], [["B02", "10 m"], ["B05", "20 m"]])
    assert shared(("band", "type"), rows[:1])[0] == ""
