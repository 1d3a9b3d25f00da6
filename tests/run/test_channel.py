"""Messages between processes: whole, in order, and without anybody waiting in a write."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.run.channel import Channel, pair, wait

MORE_THAN_A_SOCKET_HOLDS = 1 << 22  # bytes


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, other = pair()
    theirs = Channel(other)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_both_sides_can_send_more_than_a_socket_holds_before_either_reads(ends: tuple[Channel, Channel]) -> None:
    messages = [bytes([number]) * (MORE_THAN_A_SOCKET_HOLDS // 4) for number in range(4)]
    for end in ends:
        for message in messages:
            end.send(message)
        assert end.unsent > 0
    found: dict[Channel, list[bytes]] = {end: [] for end in ends}
    while any(len(got) < len(messages) for got in found.values()):
        for end in wait(ends, 10):
            found[end] += end.receive()
    assert all(got == messages for got in found.values())
    assert all(end.unsent == 0 for end in ends)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 200_000), max_size=12), seed=st.integers())
def test_messages_arrive_whole_and_in_order(sizes: list[int], seed: int) -> None:
    first, other = pair()
    second, chance = Channel(other), random.Random(seed)
    found: list[tuple[int, bytes]] = []
    for number, size in enumerate(sizes):
        first.send((number, b"x" * size))
        if chance.random() < 0.3 and wait([second], 0):
            found += second.receive()
    while len(found) < len(sizes):
        for end in wait([first, second], 10):
            found += end.receive()
    assert [(number, len(content)) for number, content in found] == list(enumerate(sizes))
    first.close()
    second.close()


def test_what_was_sent_before_the_end_is_read_before_the_end(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send("last")
    theirs.close()
    assert wait([ours], 10) == [ours] and ours.receive() == ["last"]
    assert wait([ours], 10) == [ours]
    with pytest.raises(EOFError):
        ours.receive()
    ours.send("to nobody")
    assert ours.unsent == 0


def test_waiting_ends_in_time(ends: tuple[Channel, Channel]) -> None:
    assert wait(ends, 0.0) == []
