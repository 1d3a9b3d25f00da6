"""Messages between the parent and a worker over a socket, in both directions, without ever waiting in a write.

What the other side does not take at once stays in an outbox, which ``wait`` empties as the other side reads.  So two
processes that send to each other at the same time cannot wait for each other, and a stopped one stops nobody.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import socket
import struct
from collections.abc import Collection
from typing import Any

HEAD = struct.Struct("!Q")  # before each message: its length in bytes
CHUNK = 1 << 16


class Channel:
    """One end.  Messages are pickled; they come from processes of the same run only."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outbox = bytearray()
        self._inbox = bytearray()
        self._ended = False

    @classmethod
    def of(cls, fd: int) -> Channel:
        """The end whose descriptor was inherited."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """Bytes in the outbox."""
        return len(self._outbox)

    def send(self, message: object) -> None:
        """Put a message into the outbox and write what the other side takes now."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._outbox += HEAD.pack(len(body)) + body
        self.flush()

    def flush(self) -> None:
        """Write what the other side takes now; to one that is gone, nothing (``receive`` tells)."""
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox[:CHUNK])]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._outbox.clear()

    def receive(self) -> list[Any]:
        """The messages that have arrived.  Raises EOFError when the other side is gone and none is left."""
        self._read()
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        if self._ended and not messages:
            raise EOFError("the other side is gone")
        return [pickle.loads(message) for message in messages]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _read(self) -> None:
        try:
            while not self._ended:
                data = self._socket.recv(CHUNK)
                self._inbox += data
                self._ended = not data
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._ended = True

    def _next(self) -> bytes | None:
        """The oldest whole message, taken out."""
        if len(self._inbox) < HEAD.size:
            return None
        end = HEAD.size + int(HEAD.unpack_from(self._inbox)[0])
        if len(self._inbox) < end:
            return None
        body = bytes(self._inbox[HEAD.size : end])
        del self._inbox[:end]
        return body


def pair() -> tuple[Channel, socket.socket]:
    """Our end, and the socket that a child is to inherit."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def wait(channels: Collection[Channel], timeout_s: float | None) -> list[Channel]:
    """Wait until one has something to read or takes what is in its outbox, which is written.

    Returns those that can be read; they may be none.
    """
    poll, by_fd = select.poll(), {channel.fileno(): channel for channel in channels}
    for fd, channel in by_fd.items():
        poll.register(fd, select.POLLIN | (select.POLLOUT if channel.unsent else 0))
    readable = []
    for fd, events in poll.poll(None if timeout_s is None else timeout_s * 1e3):
        if events & select.POLLOUT:
            by_fd[fd].flush()
        if events & ~select.POLLOUT:
            readable.append(by_fd[fd])
    return readable
