"""Limits of control groups, from folders that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtembed import machine


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("400000 100000", 4.0)])
def test_cpu_quota_of_version_2(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert machine._cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("50000", 0.5)])
def test_cpu_quota_of_version_1(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert machine._cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("text", "limit"), [("max", None), ("1073741824", 1 << 30), (str(1 << 62), None)])
def test_memory_limit(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert machine._memory_limit(tmp_path) == limit


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert machine._cpu_quota(tmp_path) is None and machine._memory_limit(tmp_path) is None


@pytest.mark.parametrize(("word", "count"), [("2", 2), ("", 0), ("two", 0), ("\u00b2", 0), ("-1", 0), ("\u0663", 0)])
def test_pretended_gpus_are_a_plain_number(word: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEMBED_CPU_CARDS", word)
    assert machine.cpu_cards() == count


def test_this_machine_has_something() -> None:
    assert machine.cores() >= 1 and machine.memory_bytes() > 1 << 28
