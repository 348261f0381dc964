from __future__ import annotations

import socket

import pytest

from serve import wire

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("start", "needed", "whole"),
    [
        (b"POST / HT", 10, False),
        (b"a" * wire.LOOK, 0, False),
        (POST + b"\r\n", len(POST) + 2, True),
        (POST + b"Content-Length: 5\r\n\r\nab", len(POST) + 26, False),
        (POST + b"content-length:5 \r\n\r\nabcde", len(POST) + 26, True),
        (POST + b"Content-Length: 99999999\r\n\r\n", wire.AHEAD, False),
        (POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", 0, False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", 0, False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 0, True),
    ],
)
def test_a_request_is_worth_a_thread_once_what_is_known_to_come_is_there(
    start: bytes, needed: int, whole: bool
) -> None:
    assert wire.needed(start) == needed
    assert wire.is_whole(start, len(start)) == whole


def test_what_waits_is_counted_beyond_what_is_looked_at() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"a" * 50_000)
        start = wire.peek(ours)
        assert start == b"a" * wire.LOOK
        assert wire.waiting(ours, start) == 50_000


def test_each_refusal_has_an_id_of_its_own() -> None:
    one, other = (wire.with_id(wire.refusal(3)) for _ in range(2))
    assert one != other
    assert len(one) == len(other)
    assert b"3 requests are in hand" in one
