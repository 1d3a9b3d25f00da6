"""Processes of one folder: who lives, who has taken what, and what becomes of it when one is stopped or killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtembed.dataset.board import FolderBoard
from mtembed.dataset.claims import Claims, holds, owners
from mtembed.dataset.folder import Dataset
from mtembed.dataset.members import Members, State, at_work

SINCE = "2026-11-29T00:00:00Z"
LEASE_S = 60.0
NAMES = ("part_1", "part.with.dots", "claim.1", "näme\n")


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """A member with its claims; ``of_another_boot``: nobody can ask the system whether it lives."""

    def __init__(self, work: Path, clock: Clock, *, of_another_boot: bool = False) -> None:
        self.members = Members.enter(work, SINCE, LEASE_S, clock)
        self.claims = Claims(FolderBoard(work), "claim", self.members)
        if of_another_boot:
            self.members.beat(boot="another")

    def dies(self) -> None:
        os.close(self.members.fd)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_of_many_who_want_a_shard_one_gets_it(tmp_path: Path, clock: Clock) -> None:
    several = [Process(tmp_path, clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for name in NAMES:
            assert sum(pool.map(lambda one, name=name: one.claims.take(name), several)) == 1  # type: ignore[misc]
            assert sum(name in one.claims.mine for one in several) == 1
    assert set(owners(FolderBoard(tmp_path), "claim")) == {*NAMES}


def test_what_is_released_can_be_taken_by_another(tmp_path: Path, clock: Clock) -> None:
    one, two = Process(tmp_path, clock), Process(tmp_path, clock)
    assert one.claims.take("a") and one.claims.take("a") and not two.claims.take("a")
    two.claims.release("a")
    assert holds(FolderBoard(tmp_path), "claim", "a", one.members.name)
    one.claims.release("a")
    assert two.claims.take("a") and owners(FolderBoard(tmp_path), "claim") == {"a": two.members.name}


def test_a_killed_process_loses_its_shards_at_once(tmp_path: Path, clock: Clock) -> None:
    one, two = Process(tmp_path, clock), Process(tmp_path, clock)
    assert one.claims.take("a") and two.members.state(one.members.name) is State.LIVING
    one.dies()
    assert two.members.state(one.members.name) is State.DEAD and two.claims.take("a")


def test_a_stopped_process_loses_its_shards_after_a_lease_and_notices(tmp_path: Path, clock: Clock) -> None:
    one, two, three = (Process(tmp_path, clock) for _ in range(3))
    assert one.claims.take("a") and one.claims.take("b") and not two.claims.take("a") and not three.claims.take("a")
    clock.now += LEASE_S - 1
    assert not two.claims.take("a")
    clock.now += 1
    assert two.claims.take("a") and not three.claims.take("a")
    assert not holds(FolderBoard(tmp_path), "claim", "a", one.members.name)
    one.members.beat()
    assert one.claims.superseded() == ["a"] and one.claims.mine == {"b"} and one.claims.superseded() == []
    one.claims.release("a")
    assert holds(FolderBoard(tmp_path), "claim", "a", two.members.name)
    assert not three.claims.take("b")  # it beats again


def test_a_process_that_beats_keeps_its_shards_whatever_the_clocks_of_the_files_say(
    tmp_path: Path, clock: Clock
) -> None:
    one, two = Process(tmp_path, clock, of_another_boot=True), Process(tmp_path, clock)
    assert one.claims.take("a")
    for jump in (0, 10**9, -(10**8), 10**10):
        one.members.beat()
        for path in tmp_path.iterdir():
            os.utime(path, (10**9 + jump, 10**9 + jump))
        assert not two.claims.take("a")
        clock.now += LEASE_S - 1


def test_a_process_of_another_machine_is_known_by_its_silence_alone(tmp_path: Path, clock: Clock) -> None:
    one, two = Process(tmp_path, clock, of_another_boot=True), Process(tmp_path, clock)
    assert one.claims.take("a")
    one.dies()
    assert not two.claims.take("a")
    clock.now += LEASE_S
    assert two.claims.take("a")


def test_a_claim_without_a_name_is_free_after_a_lease(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.claim.1").touch()
    one = Process(tmp_path, clock)
    assert not one.claims.take("a")
    clock.now += LEASE_S
    assert one.claims.take("a")


def test_a_process_taken_for_dead_is_one_of_them_again_when_it_goes_on(tmp_path: Path, clock: Clock) -> None:
    one, two = Process(tmp_path, clock), Process(tmp_path, clock)
    (tmp_path / f"process.{one.members.name}").unlink()
    assert two.members.others() == []
    one.members.beat(cells=7)
    assert two.members.others() == [one.members.name]
    assert two.members.state(one.members.name) is State.LIVING
    assert at_work(tmp_path)[one.members.name].cells == 7


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 4000, b'{"pid": 1, "host": "\\u001b", "boot": "", "since": ""}'])
def test_a_file_of_a_process_may_hold_anything(tmp_path: Path, clock: Clock, content: bytes) -> None:
    (tmp_path / "process.00000000").write_bytes(content)
    one = Process(tmp_path, clock)
    assert one.members.state("00000000") is State.LIVING and "00000000" not in at_work(tmp_path)
    clock.now += LEASE_S
    assert one.members.state("00000000") is State.SILENT


# -- journals ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(root: Path, **said: str) -> Iterator[Dataset]:
    """A process that has joined a folder; ``said`` changes what it says of itself."""
    dataset = Dataset(root)
    with dataset.joined(LEASE_S):
        dataset.members.beat(**said)
        yield dataset


def test_a_journal_that_is_left_is_anybodys(tmp_path: Path) -> None:
    with joined(tmp_path) as first:
        assert first.claims.take("a")
        first.journal("a").write_text("cells")
        assert first.done_stems() == set() and list(first.journals()) == ["a"]
    assert [path.name for path in (tmp_path / ".mtembed").iterdir()] == ["a.journal"]
    with joined(tmp_path) as second:
        second.adopt("a")
        assert second.journals() == {"a": [second.journal("a")]} and second.journal("a").read_text() == "cells"


def test_the_journal_of_a_killed_process_is_taken_and_the_rest_of_it_swept(tmp_path: Path) -> None:
    killed = Dataset(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(killed.joined(LEASE_S))
        assert killed.claims.take("a")
        killed.journal("a").write_text("cells")
        scratch = killed.unfinished()
        os.close(killed.members.fd)  # what its death does
        with joined(tmp_path) as second:
            assert not scratch.exists() and second.members.others() == []
            assert second.claims.take("a")
            second.adopt("a")
            assert second.journal("a").read_text() == "cells"
        killed.members.fd = os.open(tmp_path, os.O_RDONLY)


def test_a_process_that_may_come_back_keeps_writing_into_its_own_journal(tmp_path: Path) -> None:
    with joined(tmp_path, boot="another") as stopped, joined(tmp_path) as second:
        with stopped.journal("a").open("w") as writing:
            writing.write("cells")
            writing.flush()
            second.adopt("a")
            writing.write("later")
        assert second.journal("a").read_text() == "cells" and list(second.journals()["a"]) == [second.journal("a")]


def test_of_several_journals_the_longest_is_kept(tmp_path: Path) -> None:
    with joined(tmp_path) as dataset:
        (dataset.work / "a.journal").write_text("longest")
        (dataset.work / "a.journal.00000000").write_text("short")
        dataset.journal("a").write_text("shorter")
        dataset.adopt("a")
        assert dataset.journals() == {"a": [dataset.journal("a")]} and dataset.journal("a").read_text() == "longest"
