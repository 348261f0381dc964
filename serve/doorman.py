"""What refuses new connections while the server is full, whatever its workers are busy with.

A worker's thread that accepts them waits for Python's lock, whose holder waits for a core that the
engine has. The process that starts the workers waits for neither, and has nothing else to do.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from gunicorn.arbiter import Arbiter

from serve import sockets, wire
from serve.refusals import Refusals
from serve.workers import Scoreboard

__all__ = ["Doorman", "Passage"]

AT_ONCE = 64
"""Connections that are accepted before there is a look at all else."""
LOOK_AGAIN = 0.02
"""Seconds without a client after which it is looked whether workers accept again."""
PATIENCE = 0.1
"""Seconds for which the rest of a small request is waited for."""
RETRY = 0.01
"""Seconds until it is tried again to accept a connection that there was no room for."""
SILENCE = 1
"""Seconds for which a connection on which nothing has come is left to the kernel."""


class Passage:
    """Leads connections to a worker. It is made before that is forked, so that both have it."""

    def __init__(self) -> None:
        self._outside, self.inside = socket.socketpair()
        for end in (self._outside, self.inside):
            end.setblocking(False)

    def give(self, connection: socket.socket) -> None:
        """Pass a connection on. Raises OSError where too many wait, or the worker is gone."""
        socket.send_fds(self._outside, [b"."], [connection.fileno()])

    def take(self) -> sockets.Client | None:
        """Return a connection that was passed on; None where it is lost, for want of open files.

        Raises:
            BlockingIOError: no other one was passed on.
        """
        _, numbers, _, _ = socket.recv_fds(self.inside, 1, 1)
        if not numbers:
            return None
        os.set_inheritable(numbers[0], False)
        return sockets.Client(fileno=numbers[0])

    def close(self) -> None:
        """Let go of it, as the worker is gone or another one."""
        self._outside.close()
        self.inside.close()


class _Worker(Protocol):
    place: int
    passage: Passage


class Doorman(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, which has an eye on the door while it waits for signals.

    Once all workers are full it accepts connections instead of them, until they have much less to
    do. It passes on as many as there is room for, refuses the others, and answers health checks.
    What is no whole request, such as a large body, is passed on: a worker knows what to do with it.
    """

    LISTENERS: Sequence[socket.socket]
    WORKERS: dict[int, _Worker]

    def __init__(self, application: Any, board: Scoreboard, limit: int) -> None:
        """Make one for workers that have up to `limit` requests in hand each."""
        self._board = board
        self._limit = limit
        self._refusals = Refusals(limit * board.workers, board.count_refusal)
        self._poll = select.epoll()
        self._poll.register(board.bell, select.EPOLLIN)
        self._watched: dict[int, socket.socket] = {}  # listeners
        self._late: dict[int, tuple[socket.socket, float]] = {}  # and when they are waited for
        super().__init__(application)

    def start(self) -> None:
        """Listen, too. A client is accepted with its request, so that it can be refused at once."""
        super().start()
        for listener in self.LISTENERS:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SILENCE)

    def let_go(self) -> None:
        """Close what a worker that was just forked has nothing to do with."""
        for worker in self.WORKERS.values():
            worker.passage.close()
        for connection, _ in self._late.values():
            sockets.close(connection)
        self._poll.close()

    def stop(self, graceful: bool = True) -> None:
        """End all workers, which are given what is still waited for."""
        for connection, _ in list(self._late.values()):
            self._look(connection, patient=False)
        super().stop(graceful)

    def signal(self, sig: int, frame: Any) -> None:
        """Note a signal."""
        super().signal(sig, frame)
        self._board.ring()

    def signal_chld(self, sig: int, frame: Any) -> None:
        """Note that a worker has ended."""
        super().signal_chld(sig, frame)
        self._board.ring()

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Return the signals that have come, as soon as there are some."""
        limit = time.monotonic() + timeout
        while not self._rang(limit - time.monotonic()):
            pass
        signals: list[int] = super().wait_for_signals(timeout=0)
        return signals

    def _rang(self, seconds: float) -> bool:
        """Look at the door for so long at most; return whether to look what else there is."""
        self._watch(self.LISTENERS if self._board.all_shut else ())
        busy = self._watched or self._late
        for number, _ in self._poll.poll(max(min(seconds, LOOK_AGAIN) if busy else seconds, 0.0)):
            if number in self._watched:
                self._accept(self._watched[number])
            elif number in self._late:
                self._look(self._late[number][0], patient=True)
        while self._late and next(iter(self._late.values()))[1] < time.monotonic():
            self._look(next(iter(self._late.values()))[0], patient=False)
        return seconds <= 0 or self._board.rang()

    def _watch(self, listeners: Sequence[socket.socket]) -> None:
        if bool(listeners) == bool(self._watched):
            return
        for number in self._watched:
            self._poll.unregister(number)
        self._watched = {listener.fileno(): listener for listener in listeners}
        for number in self._watched:
            self._poll.register(number, select.EPOLLIN)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            if not self._board.all_shut:
                return
            try:
                connection = sockets.accept(listener)
            except BlockingIOError:
                return
            except OSError:  # it is broken already, or there is no room for it
                time.sleep(RETRY)
                return
            self._look(connection, patient=True)

    def _look(self, connection: socket.socket, patient: bool) -> None:
        """See to a connection, unless the rest of its request should come soon."""
        number = connection.fileno()
        start = wire.peek(connection) or b""
        soon = len(start) < wire.needed(start) <= wire.LOOK
        if patient and start and soon:
            if number not in self._late:
                self._late[number] = connection, time.monotonic() + PATIENCE
                self._poll.register(number, select.EPOLLIN | select.EPOLLET)
            return
        if self._late.pop(number, None):
            self._poll.unregister(number)
        self._see_to(connection, start)
        sockets.close(connection)

    def _see_to(self, connection: socket.socket, start: bytes) -> None:
        ping = wire.ping(start)
        worker = self._least_busy()
        if worker and ping and self._board.is_healthy(worker.place):
            with contextlib.suppress(OSError):
                sockets.receive(connection, ping.size)
                sockets.send(connection, wire.pong("", False, ping.head))
            return
        is_request = not ping and wire.is_whole(start, len(start))
        if not (worker and self._passed_on(connection, worker, is_request)):
            self._refusals.tell(connection)

    def _least_busy(self) -> _Worker | None:
        serving = [worker for worker in self.WORKERS.values() if self._board.serves(worker.place)]
        return min(serving, key=lambda worker: self._board.load(worker.place), default=None)

    def _passed_on(self, connection: socket.socket, worker: _Worker, is_request: bool) -> bool:
        """Pass a connection on if there is room for it, and return whether there is."""
        if self._board.connections(worker.place) >= self.cfg.worker_connections:
            return False
        if is_request and self._board.load(worker.place) >= self._limit:
            return False
        try:
            worker.passage.give(connection)
        except OSError:
            return False
        self._board.note_passed_on(worker.place)
        return True
