from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from serve import sockets
from serve.ids import new_id


def test_a_connection_is_accepted_read_answered_and_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            sockets.accept(listener)
        with socket.create_connection(listener.getsockname()) as client:
            ours = sockets.accept(listener)
            assert not os.get_inheritable(ours.fileno())
            assert ours.getpeername() == client.getsockname()
            with pytest.raises(BlockingIOError):
                sockets.receive(ours, 10)
            client.sendall(b"a\0question")
            assert sockets.peek(ours, 3) == b"a\0q"
            assert sockets.receive(ours, 100) == b"a\0question"
            assert sockets.send(ours, b"an\0answer") == 9
            sockets.close(ours)
            assert client.recv(100) == b"an\0answer"
            assert client.recv(100) == b""
            assert ours.fileno() == -1


def test_no_call_waits_or_kills_the_process_where_the_client_does_not_read_or_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert 0 < sockets.send(ours, b"a" * 2**24) < 2**24
        with pytest.raises(BlockingIOError):
            sockets.send(ours, b"a")
        theirs.close()
        with pytest.raises(BrokenPipeError):
            sockets.send(ours, b"a")
    with pytest.raises(OSError, match="Bad file descriptor"):
        sockets.peek(ours, 10)


def test_python_lock_is_kept() -> None:
    """Another thread that wants it all the time gets it once in a switch interval at most."""
    ours, theirs = socket.socketpair()
    turns, over = 0, threading.Event()

    def want() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=want)
    with ours, theirs:
        ours.sendall(b"a")
        thread.start()
        try:
            before, started = turns, time.monotonic()
            for _ in range(20_000):
                sockets.peek(theirs, 1)
            rate = (turns - before) / (time.monotonic() - started)
        finally:
            over.set()
            thread.join()
    assert rate < 2000  # 200 at the default interval of 5 ms; thousands with `recv` of Python


def test_a_process_that_is_forked_has_ids_of_its_own() -> None:
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    ours = new_id()
    assert len(ours) == len(theirs) == 12
    assert ours != theirs
