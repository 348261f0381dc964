"""A threaded gunicorn worker that answers at once what needs no model.

The platform takes a container that does not answer /ping within 2 s for dead, and a client that is
to be refused should know soon. Both are answered by the thread that accepts connections, whatever
the other threads wait for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from serve import metrics
from serve.errors import body
from serve.invocation import ARRIVED

__all__ = ["Worker", "closed", "limit_waiting"]

log = logging.getLogger(__name__)

STAY = 0.01
"""Seconds that a thread waits for the next request of a connection before it leaves it."""
LINGER = 2.0
"""Seconds that a refused client gets to read its answer, while what it sends is dropped."""
STALE = 0.5
"""Seconds in the queue after which it is worth a look whether the client is still there."""
STALLED = 60
"""Seconds without a byte after which no thread waits for a client any more."""
REPORTS = 10.0
"""Seconds between two log lines about refused requests."""

_PINGS = (b"GET /ping ", b"HEAD /ping", b"POST /ping")


class Worker(ThreadWorker):  # type: ignore[misc]
    """The launcher sets `fault` and `max_requests_in_hand`."""

    fault: Callable[[], str] = staticmethod(lambda: "the model is still being loaded")
    max_requests_in_hand = 512

    def init_process(self) -> None:
        self._in_hand = 0
        self._refused = 0
        self._reported = 0.0
        self._lingering: deque[TConn] = deque()
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        if conn.parser is None:
            limit_waiting(conn.sock, STALLED)
        start = _peek(conn.sock)
        if conn.parser is None or not conn.parser.unreader.buf.getvalue():
            if start is None:
                self._wait_for_data(conn)
                return
            if not start:
                self._close(conn)
                return
            if start.startswith(_PINGS) and self._answer_ping(conn):
                return
        if self._in_hand >= self.max_requests_in_hand:
            self._refuse(conn)
            return
        self._in_hand += 1
        conn.data_ready = True
        conn.arrived = time.monotonic()
        future = self.tpool.submit(self.handle, conn)
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def finish_request(self, conn: TConn, fs: Any) -> None:
        self._in_hand -= 1
        if conn.sock.fileno() < 0:  # `handle` closed it, and gunicorn would count it off twice
            self.nr_conns -= 1
            return
        super().finish_request(conn, fs)

    def handle(self, conn: TConn) -> Any:
        """Serve a request, and those that follow at once, while there are threads to spare.

        A connection that is not kept is closed here. gunicorn closes it in the thread that accepts
        all the others, where it waits up to 2 s for the client to close first. That is needed only
        where the client still sends its body: closing then would cut off the answer, such as 413.
        """
        if time.monotonic() - conn.arrived > STALE and closed(conn.sock):
            conn.close()
            return False
        while True:
            ARRIVED.set(conn.arrived)
            kept = super().handle(conn)
            if kept is not True or not self.alive or not self._follows(conn):
                break
            conn.arrived = time.monotonic()
        if not kept:
            limit = time.monotonic() + LINGER
            with contextlib.suppress(OSError, ParseException):
                read = conn.parser is not None and conn.parser.finish_body(deadline=limit)
                conn.close(graceful=not read)
        return kept

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer what is no HTTP, in the form of all other errors."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        log.warning("a request that is no HTTP was refused: %s", exc)
        message = f"this is no request that is read here: {exc}"[:500]
        with contextlib.suppress(OSError):
            client.sendall(_error("400 Bad Request", "bad_request", message, "Connection: close"))

    def murder_pending(self) -> None:
        now = time.monotonic()
        if not self.alive:  # a silent client must not hold up the end
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, now + LINGER)
        super().murder_pending()
        while self._lingering and self._lingering[0].timeout < now:
            self._drop(self._lingering[0])

    def _follows(self, conn: TConn) -> bool:
        """Wait a little for another request, if no connection waits for this thread."""
        if self._in_hand > self.cfg.threads:
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(1000 * STAY))

    def _answer_ping(self, conn: TConn) -> bool:
        """Answer a request that is there as a whole and has no body; return whether it was."""
        try:
            request = conn.sock.recv(8192, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            head, end, _ = request.partition(b"\r\n\r\n")
            fields = head.lower()
            path = head.split(b" ", 2)[1]
            if not end or path != b"/ping" or b"\ntransfer-encoding:" in fields:
                return False
            if b"\ncontent-length:" in fields and b"\ncontent-length: 0\r" not in fields + b"\r":
                return False
            conn.sock.recv(len(head) + len(end))
            kept = b"http/1.1" in fields and b"\nconnection: close" not in fields and self.alive
            conn.sock.send(_pong(self.fault(), kept, head.startswith(b"HEAD")))
        except (OSError, IndexError):
            self._close(conn)
            return True
        if kept:
            self._keep(conn)
        else:
            self._linger(conn)
        return True

    def _refuse(self, conn: TConn) -> None:
        message = f"{self._in_hand} requests are in hand already; try again later, or add instances"
        headers = ("Retry-After: 1", "Connection: close")
        with contextlib.suppress(OSError):
            conn.sock.send(_error("503 Service Unavailable", "overloaded", message, *headers))
        self._linger(conn)
        metrics.answered(503, 0.0, {})
        self._refused += 1
        if time.monotonic() - self._reported > REPORTS:
            log.warning("%d requests were refused: %s", self._refused, message)
            self._refused, self._reported = 0, time.monotonic()

    def _keep(self, conn: TConn) -> None:
        """Wait for the next request on a connection, as after any other answer."""
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _wait_for_data(self, conn: TConn) -> None:
        """Let the poller watch a silent connection, so that it occupies no thread."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self.cfg.keepalive
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _linger(self, conn: TConn) -> None:
        """Close a connection whose client may still send: to close at once cuts the answer off."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._read_on, conn))
        except OSError:
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER
        self._lingering.append(conn)

    def _read_on(self, conn: TConn, sock: socket.socket) -> None:
        try:
            ended = not sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._drop(conn)

    def _drop(self, conn: TConn) -> None:
        self._lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()


def limit_waiting(connection: socket.socket, seconds: float) -> None:
    """Have blocking calls on a connection raise BlockingIOError after so many seconds.

    Python's own time limits hold for calls that must not block too.
    """
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)


def closed(connection: socket.socket) -> bool:
    """Return whether the client of a connection has closed it."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _pong(fault: str, kept: bool, head: bool) -> bytes:
    headers = () if kept else ("Connection: close",)
    if not fault:
        return _answer("200 OK", None, *headers)
    answer = _error("503 Service Unavailable", "not_ready", fault, *headers)
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head else answer


def _error(status: str, code: str, message: str, *headers: str) -> bytes:
    request_id = os.urandom(6).hex()
    content = body(code, message, request_id)
    return _answer(status, content, f"X-Request-Id: {request_id}", *headers)


def _answer(status: str, content: object, *headers: str) -> bytes:
    text = b"" if content is None else json.dumps(content).encode()
    kind = () if content is None else ("Content-Type: application/json",)
    lines = [f"HTTP/1.1 {status}", *kind, f"Content-Length: {len(text)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + text


def _peek(connection: socket.socket) -> bytes | None:
    """Return the first bytes that wait on a connection; None while there are none."""
    try:
        return connection.recv(len(b"HEAD /ping"), socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""
