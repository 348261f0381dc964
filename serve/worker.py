"""A threaded gunicorn worker that answers at once what needs no model.

The platform takes a container that does not answer /ping within 2 s for dead, and a client that is
to be refused should know soon. Both are answered by the thread that accepts connections, whatever
the other threads wait for, and of a full server by the doorman, where a connection is new. And none
of those threads waits for a request that is still on its way: what has come of it stays in the
kernel until it is worth a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from serve import metrics, sockets, wire
from serve.doorman import AT_ONCE, RETRY, Passage
from serve.invocation import ARRIVED
from serve.logs import Seldom
from serve.refusals import Refusals
from serve.workers import Scoreboard
from textmodel.priority import stand_back

__all__ = ["Worker", "closed", "limit_waiting"]

log = logging.getLogger(__name__)

REOPEN = 1 / 2
"""The part of what may be in hand below which a worker that was full accepts connections again."""
NO_LISTENER = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP)
"""What makes it useless to accept again; all else passes (accept(2))."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What passes once others have released something."""
STAY = 0.01
"""Seconds that a thread waits for the next request of a connection before it leaves it."""
LINGER = 2.0
"""Seconds that a refused client gets to read its answer, while what it sends is dropped."""
STALE = 0.5
"""Seconds in the queue after which it is worth a look whether the client is still there."""
STALLED = 60
"""Seconds without a byte after which no thread waits for a client any more."""
NICENESS = 17
"""How far the threads of requests stand back: behind the one that accepts connections, before the
engine's. docs/measured.md has what that gives."""
POLITE = 0.005
"""Seconds for which a connection is left to a worker that has fewer, before it is taken all the
same."""


class Connection(TConn):  # type: ignore[misc]
    """A connection, and what is known of its next request."""

    seen = 0
    """Bytes of it that had come when it was last looked at, and was not worth a thread."""
    whole = False
    """Whether all of it had come when a thread took it."""
    arrived = 0.0

    def look_again(self, seen: int, needed: int) -> None:
        """Be readable once so many bytes of a request have come."""
        if not self.seen:
            self.timeout = time.monotonic() + STALLED
        self.seen = seen
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)

    def forget(self) -> None:
        """Be readable with any byte."""
        if self.seen:
            self.seen = 0
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


class Worker(ThreadWorker):  # type: ignore[misc]
    """The launcher sets what is not set here."""

    alive: bool
    scoreboard: Scoreboard
    place: int
    passage: Passage
    fault: Callable[[], str] = staticmethod(lambda: "the model is still being loaded")
    max_requests_in_hand = 512

    def init_process(self) -> None:
        self._in_hand = 0
        self._uploads = 0  # of those in hand, the ones that threads still read
        self._held: deque[Connection] = deque()  # those in hand that are to be read
        self._shut = False  # to new connections, as this worker is full
        self._is_time_for_no_room = Seldom()
        self._left = math.inf  # when a connection was left to others
        self._lingering: deque[Connection] = deque()
        self._address = self.sockets[0].getsockname()
        super().init_process()

    def run(self) -> None:
        self._refusals = Refusals(self.max_requests_in_hand, metrics.refused)
        self.poller.register(self.passage.inside, EVENT_READ, self._take_passed)
        super().run()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the threads that serve requests."""
        return ThreadPoolExecutor(self.cfg.threads, initializer=stand_back, initargs=(NICENESS,))

    def begin(self) -> None:
        """Serve, as the model is there. May be called from another thread."""
        self.scoreboard.begin(self.place)
        self.method_queue.defer(lambda: None)  # wakes the thread that accepts connections

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not. As long as this worker loads what others have, they do, and
        after all were full the doorman does."""
        super().set_accept_enabled(enabled and not self._shut and not self._is_spared())

    def _is_spared(self) -> bool:
        return not self.scoreboard.serves(self.place) and self.scoreboard.others_serve(self.place)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        self.scoreboard.count(self.place, self.nr_conns)
        if self._shut and not self.fault():
            self.scoreboard.note_healthy(self.place)
        if self.scoreboard.workers > 1:
            self._give_up_if_broken()
        super().wait_for_and_dispatch_events(timeout)

    def _give_up_if_broken(self) -> None:
        """Be replaced by gunicorn where others serve meanwhile: the platform may ask any of them,
        and would take the container for healthy or not by chance."""
        board = self.scoreboard
        began = self.alive and board.complete and board.serves(self.place)
        if began and board.others_serve(self.place) and (fault := self.fault()):
            log.error("this process ends, to be replaced: %s", fault)
            self.alive = False
            board.clear(self.place)  # or the others would leave connections to it

    def accept(self, listener: socket.socket) -> None:
        """Accept what waits; gunicorn accepts one connection between two looks at all others."""
        if self._is_spared():  # since the last look
            self.set_accept_enabled(False)
            return
        for _ in range(AT_ONCE):
            if self._shut or self._leaves_to_others():
                return
            try:
                connection = sockets.accept(listener)
            except OSError as error:
                if error.errno in NO_LISTENER:
                    raise
                if error.errno in NO_ROOM:
                    self._wait_for_room(error)
                return  # there is none, or it is broken already
            self._admit(connection)

    def _take_passed(self, passage: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                connection = self.passage.take()
                self.scoreboard.note_taken(self.place)
                if connection is not None:
                    self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        try:
            address = connection.getpeername()
        except OSError:
            connection.close()
            return
        self.nr_conns += 1
        self.scoreboard.count(self.place, self.nr_conns)
        self.enqueue_req(Connection(self.cfg, connection, address, self._address))

    def _wait_for_room(self, error: OSError) -> None:
        if self._is_time_for_no_room():
            log.warning("clients have to wait, as no connection can be accepted: %s", error)
        time.sleep(RETRY)  # the listener stays readable, so this would be asked without end

    def _leaves_to_others(self) -> bool:
        """Return whether a worker with fewer connections should accept the next one.

        All are told of it at the same time, and the first one would have them all.
        """
        board = self.scoreboard
        if board.workers == 1 or not board.others_have_fewer(self.nr_conns):
            self._left = math.inf
            return False
        now = time.monotonic()
        self._left = min(self._left, now)
        if now - self._left > POLITE:
            return False
        time.sleep(POLITE / 10)
        return True

    def enqueue_req(self, conn: Connection) -> None:
        start = wire.peek(conn.sock)
        ahead = conn.parser.unreader.buf.getvalue() if conn.parser else b""
        if ahead:  # the last request was read with a part of this one
            start = ahead + (start or b"")
        there = wire.waiting(conn.sock, start) if start and not ahead else len(start or b"")
        if start is None:
            self._wait_for_data(conn)
        elif not start:
            self._close(conn)
        elif not ahead and (ping := wire.ping(start)):
            self._answer_ping(conn, ping)
        elif not ahead and conn.seen < there < wire.needed(start):
            conn.look_again(there, wire.needed(start))
            self._wait_for_data(conn)
        elif self._is_full:
            self._refuse(conn)
        else:
            self._take(conn, wire.is_whole(start, there))

    def _take(self, conn: Connection, whole: bool) -> None:
        """Have a thread serve a request, or hold it where too many others are read already."""
        conn.forget()
        if conn.parser is None:
            limit_waiting(conn.sock, STALLED)
        self._count_in_hand(+1)
        conn.whole = whole
        conn.data_ready = True
        conn.arrived = time.monotonic()
        if whole or self._uploads < self._most_uploads:
            self._submit(conn)
        else:
            self._held.append(conn)

    @property
    def _most_uploads(self) -> int:
        """Threads that may read what is still on its way; the others are for what is there."""
        return int(self.cfg.threads) * 3 // 4

    def _submit(self, conn: Connection) -> None:
        self._uploads += not conn.whole
        future = self.tpool.submit(self.handle, conn)
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def finish_request(self, conn: Connection, fs: Any) -> None:
        self._count_in_hand(-1)
        self._uploads -= not conn.whole
        if self._held and self._uploads < self._most_uploads:
            self._submit(self._held.popleft())
        if conn.sock.fileno() < 0:  # `handle` closed it, and gunicorn would count it off twice
            self.nr_conns -= 1
            return
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> Any:
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
            client.sendall(
                wire.error("400 Bad Request", "bad_request", message, "Connection: close")
            )

    def murder_pending(self) -> None:
        now = time.monotonic()
        if not self.alive:  # a silent client must not hold up the end
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, now + LINGER)
        while self.pending_conns and self.pending_conns[0].timeout < now:
            conn = self.pending_conns.popleft()
            self.poller.unregister(conn.sock)
            if conn.seen:
                self._tell_stalled(conn)
            else:
                self._close(conn)
        while self._lingering and self._lingering[0].timeout < now:
            self._drop(self._lingering[0])

    def _follows(self, conn: Connection) -> bool:
        """Wait a little for another request, if no connection waits for this thread."""
        if self._in_hand > self.cfg.threads:
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        if not poll.poll(1000 * STAY):
            return False
        start = wire.peek(conn.sock) or b""
        return wire.is_whole(start, wire.waiting(conn.sock, start))

    def _answer_ping(self, conn: Connection, ping: wire.Ping) -> None:
        kept = ping.kept and self.alive
        try:
            sockets.receive(conn.sock, ping.size)
            sockets.send(conn.sock, wire.pong(self.fault(), kept, ping.head))
        except OSError:
            self._close(conn)
            return
        if kept:
            self._keep(conn)
        else:
            self._linger(conn)

    @property
    def _is_full(self) -> bool:
        return self._in_hand >= self.max_requests_in_hand

    def _count_in_hand(self, change: int) -> None:
        self._in_hand += change
        self.scoreboard.note_in_hand(self.place, self._in_hand)
        shut = self._in_hand > REOPEN * self.max_requests_in_hand if self._shut else self._is_full
        if shut != self._shut:
            self._shut = shut
            self.scoreboard.shut(self.place, shut)
            self.set_accept_enabled(self.alive and not shut)

    def _refuse(self, conn: Connection) -> None:
        request = self._refusals.tell(conn.sock)
        if wire.is_whole(request, len(request)):
            self._close(conn)
        else:
            self._linger(conn)

    def _tell_stalled(self, conn: Connection) -> None:
        message = "the rest of the request did not come"
        answer = wire.error("408 Request Timeout", "stalled", message, "Connection: close")
        with contextlib.suppress(OSError):
            sockets.send(conn.sock, answer)
        self._linger(conn)
        metrics.answered(408, float(STALLED), {})

    def _keep(self, conn: Connection) -> None:
        """Wait for the next request on a connection, as after any other answer."""
        conn.sock.setblocking(False)
        conn.forget()
        conn.set_timeout()
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _wait_for_data(self, conn: Connection) -> None:
        """Let the poller watch a connection until more has come, so that it occupies no thread."""
        conn.sock.setblocking(False)
        if not conn.seen:
            conn.timeout = time.monotonic() + self.cfg.keepalive
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _linger(self, conn: Connection) -> None:
        """Close a connection whose client may still send: to close at once cuts the answer off."""
        try:
            conn.sock.setblocking(False)
            conn.forget()
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._read_on, conn))
        except OSError:
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER
        self._lingering.append(conn)

    def _read_on(self, conn: Connection, sock: socket.socket) -> None:
        try:
            ended = not sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        self._lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
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
