"""The datasets of Core as data."""

from __future__ import annotations

from mtembed.sources import source_of


def test_the_source_follows_from_the_columns() -> None:
    assert source_of(["B02", "B10"]) == "S2L1C"
    assert source_of(["B02", "cloud_mask"]) == "S2L2A"
    assert source_of(["vv", "vh"]) == "S1RTC"
    assert source_of(["DEM"]) is None
