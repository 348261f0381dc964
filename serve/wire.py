"""Just enough HTTP for the thread that accepts connections: it looks at requests and reads none."""

from __future__ import annotations

import json
import re
import socket
import sys
from fcntl import ioctl
from termios import FIONREAD
from typing import NamedTuple

from serve import sockets
from serve.errors import body
from serve.ids import new_id

__all__ = [
    "AHEAD",
    "Ping",
    "error",
    "is_whole",
    "needed",
    "peek",
    "ping",
    "pong",
    "refusal",
    "waiting",
    "with_id",
]

LOOK = 8192
"""Bytes of a request that are looked at."""
AHEAD = 2**18
"""Bytes of a request that wait in the kernel, at most, until a thread reads it."""

_PINGS = (b"GET /ping ", b"HEAD /ping ", b"POST /ping ")
_LENGTH = re.compile(rb"\ncontent-length: *(\d{1,12}) *\r")
_AN_ID = "0" * 12


def peek(connection: socket.socket) -> bytes | None:
    """Return the first bytes that wait on a connection; None while there are none."""
    try:
        return sockets.peek(connection, LOOK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def waiting(connection: socket.socket, start: bytes) -> int:
    """Return how many bytes wait on a connection, of which `start` was seen."""
    if len(start) < LOOK:
        return len(start)
    return int.from_bytes(ioctl(connection, FIONREAD, bytes(4)), sys.byteorder)


def needed(start: bytes) -> int:
    """Return how many bytes of a request should wait before a thread reads it.

    It is 0 where nobody knows what follows: of a body in chunks, or one that its client sends only
    when it is told to go on.
    """
    head, end, _ = start.partition(b"\r\n\r\n")
    if not end:
        return len(start) + 1 if len(start) < LOOK else 0
    fields = head.lower() + b"\r"
    if b"\ntransfer-encoding:" in fields or b"\nexpect:" in fields:
        return 0
    return min(_size(fields, len(head) + len(end)), AHEAD)


def is_whole(start: bytes, there: int) -> bool:
    """Return whether a request has come to its end, where so many bytes are there."""
    head, end, _ = start.partition(b"\r\n\r\n")
    fields = head.lower() + b"\r"
    if b"\ntransfer-encoding:" in fields:
        return start.endswith(b"\r\n0\r\n\r\n")
    return bool(end) and there >= _size(fields, len(head) + len(end))


def _size(fields: bytes, head: int) -> int:
    length = _LENGTH.search(fields)
    return head + (int(length[1]) if length else 0)


class Ping(NamedTuple):
    """A health check."""

    size: int
    """Its bytes."""
    kept: bool
    """Whether its client wants to use the connection again."""
    head: bool
    """Whether it is to be answered without a body."""


def ping(start: bytes) -> Ping | None:
    """Return the health check that a request is, if it is there as a whole and has no body."""
    if not start.startswith(_PINGS):
        return None
    head, end, _ = start.partition(b"\r\n\r\n")
    fields = head.lower() + b"\r"
    has_length = b"\ncontent-length:" in fields and b"\ncontent-length: 0\r" not in fields
    if not end or has_length or b"\ntransfer-encoding:" in fields:
        return None
    kept = b"http/1.1" in fields and b"\nconnection: close" not in fields
    return Ping(len(head) + len(end), kept, head.startswith(b"HEAD"))


def pong(fault: str, kept: bool, head: bool) -> bytes:
    """Return the answer to a health check, to HEAD without its body."""
    headers = () if kept else ("Connection: close",)
    if not fault:
        return _answer("200 OK", None, *headers)
    answer = error("503 Service Unavailable", "not_ready", fault, *headers)
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head else answer


def refusal(limit: int) -> bytes:
    """Return the answer to requests over a limit; `with_id` makes it that to one of them."""
    message = f"{limit} requests are in hand already; try again later, or add instances"
    return _error(
        _AN_ID, "503 Service Unavailable", "overloaded", message, "Retry-After: 1",
        "Connection: close",
    )  # fmt: skip


def with_id(answer: bytes) -> bytes:
    """Return an answer with a request id of its own."""
    return answer.replace(_AN_ID.encode(), new_id().encode())


def error(status: str, code: str, message: str, *headers: str) -> bytes:
    """Return an error in the form of all others."""
    return _error(new_id(), status, code, message, *headers)


def _error(request_id: str, status: str, code: str, message: str, *headers: str) -> bytes:
    content = body(code, message, request_id)
    return _answer(status, content, f"X-Request-Id: {request_id}", *headers)


def _answer(status: str, content: object, *headers: str) -> bytes:
    text = b"" if content is None else json.dumps(content).encode()
    kind = () if content is None else ("Content-Type: application/json",)
    lines = [f"HTTP/1.1 {status}", *kind, f"Content-Length: {len(text)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + text
