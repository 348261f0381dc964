"""Refusing what is more than the server may have in hand."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

from serve import sockets, wire
from serve.logs import Seldom

__all__ = ["Refusals"]

log = logging.getLogger(__name__)


class Refusals:
    """Answers that tell clients to come again, and a line in the log now and then."""

    def __init__(self, limit: int, count: Callable[[], None]) -> None:
        """Make those of a server with up to `limit` requests in hand; `count` is told of each."""
        self._limit = limit
        self._answer = wire.refusal(limit)
        self._count = count
        self._untold = 0
        self._is_time = Seldom()

    def tell(self, connection: socket.socket) -> bytes:
        """Refuse a request; return what was read of it: unread bytes would cut the answer off."""
        self._count()
        self._untold += 1
        if self._is_time():
            log.warning("%d requests were refused, as %d are in hand", self._untold, self._limit)
            self._untold = 0
        request = b""
        with contextlib.suppress(OSError):  # the client has gone
            request = sockets.receive(connection, 2 * wire.LOOK)
            sockets.send(connection, wire.with_id(self._answer))
        return request
