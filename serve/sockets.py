"""Socket calls that return at once, and keep Python's lock meanwhile.

Python's own give the lock away in each call. The thread that accepts connections, and those that
serve requests, would then wait for it again several times for each client, while 64 others have it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import _SendableFile

    from _typeshed import ReadableBuffer

__all__ = ["Client", "accept", "close", "peek", "receive", "send"]

LARGE = 2**16
"""Bytes that are copied while others wait for the lock, at most."""

_C = ctypes.PyDLL(None, use_errno=True)  # CDLL is what gives the lock away
for _function in (_C.recv, _C.send):
    _function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    _function.restype = ctypes.c_ssize_t


class Client(socket.socket):
    """A connection that keeps the lock in what gunicorn calls, unless it has to wait.

    So the kernel, too, is told only then for how long a call may wait.
    """

    _limit: float | None = None
    _told: float | None = -1.0  # what the kernel was told; nothing yet

    def settimeout(self, value: float | None) -> None:
        """Have calls that wait do so for so many seconds, not at all, or without a limit (None)."""
        self._limit = value

    def gettimeout(self) -> float | None:
        """Return what was set last."""
        return self._limit

    def setblocking(self, flag: bool) -> None:
        """Have calls wait or not."""
        self._limit = None if flag else 0.0

    def getblocking(self) -> bool:
        """Return whether calls wait."""
        return self._limit != 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what waits, or wait."""
        if size <= LARGE:
            with contextlib.suppress(BlockingIOError):
                return _receive(self, size, flags)
        self._tell()
        return super().recv(size, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send what there is room for, and wait with the rest."""
        sent = 0
        if isinstance(data, bytes) and len(data) <= LARGE:
            with contextlib.suppress(BlockingIOError):
                sent = send(self, data)
            if sent == len(data):
                return
        self._tell()
        super().sendall(memoryview(data)[sent:], flags)

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send a file, and wait."""
        self._tell()
        return super().sendfile(file, offset, count)

    def _tell(self) -> None:
        if self._told != self._limit:
            super().settimeout(self._limit)
            self._told = self._limit


def accept(listener: socket.socket) -> Client:
    """Return the next connection, for calls that do not block.

    Raises:
        BlockingIOError: there is none.
        OSError: it is broken already.
    """
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    number = _checked(_C.accept4(listener.fileno(), None, None, flags))
    return Client(listener.family, listener.type, listener.proto, number)


def close(connection: socket.socket) -> None:
    """Close a connection; what it has been sent still reaches the client."""
    _C.close(connection.detach())


def peek(connection: socket.socket, size: int) -> bytes:
    """Return up to so many bytes that wait on a connection, and leave them there.

    Raises:
        OSError: as `receive`.
    """
    return _receive(connection, size, socket.MSG_PEEK)


def receive(connection: socket.socket, size: int) -> bytes:
    """Return up to so many bytes that wait on a connection; none at its end.

    Raises:
        BlockingIOError: nothing waits.
        OSError: the connection is broken.
    """
    return _receive(connection, size, 0)


def send(connection: socket.socket, data: bytes) -> int:
    """Send what there is room for; return how many bytes that were.

    Raises:
        BlockingIOError: there is none.
        OSError: the connection is broken.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    return _checked(_C.send(connection.fileno(), data, len(data), flags))


def _receive(connection: socket.socket, size: int, flags: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    flags |= socket.MSG_DONTWAIT
    count = _checked(_C.recv(connection.fileno(), buffer, size, flags))
    return ctypes.string_at(buffer, count)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
