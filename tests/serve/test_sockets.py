from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve import sockets
from serve.ids import new_id
from serve.worker import limit_waiting


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


@pytest.mark.parametrize("call", ["peek", "client"])
def test_python_lock_is_kept(call: str) -> None:
    """Another thread that wants it all the time gets it once in a switch interval at most."""
    theirs, ours = client_pair()
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
                if call == "peek":
                    sockets.peek(theirs, 1)
                else:
                    theirs.sendall(b"b")
                    theirs.setblocking(True)
                    theirs.settimeout(2)
                    assert theirs.recv(1, socket.MSG_PEEK) == b"a"
                    assert sockets.receive(ours, 1) == b"b"
            rate = (turns - before) / (time.monotonic() - started)
        finally:
            over.set()
            thread.join()
    assert rate < 2000  # 200 at the default interval of 5 ms; thousands with `recv` of Python


def client_pair() -> tuple[sockets.Client, socket.socket]:
    ours, theirs = socket.socketpair()
    return sockets.Client(fileno=ours.detach()), theirs


@pytest.mark.parametrize("size", [5, sockets.LARGE, sockets.LARGE + 1, 2**24])
def test_all_is_sent_and_received_however_much_it_is(size: int) -> None:
    data = os.urandom(size)
    ours, theirs = client_pair()
    with ours, theirs, ThreadPoolExecutor(1) as other:
        sending = other.submit(ours.sendall, data)
        assert theirs.recv(size, socket.MSG_WAITALL) == data
        sending.result()
        sending = other.submit(theirs.sendall, data)
        received = bytearray()
        while len(received) < size:
            received += ours.recv(size)
        assert received == data
        sending.result()
        ours.sendall(memoryview(data)[:5])
        assert theirs.recv(5) == data[:5]


def test_a_client_that_is_silent_or_gone_is_told_as_by_any_connection() -> None:
    ours, theirs = client_pair()
    with ours:
        limit_waiting(ours, 0.05)
        with pytest.raises(BlockingIOError):
            ours.recv(10)
        theirs.close()
        assert ours.recv(10) == b""
        with pytest.raises(BrokenPipeError):
            ours.sendall(b"a")


def test_a_call_waits_as_long_as_was_set_last() -> None:
    ours, theirs = client_pair()
    with ours, theirs:
        ours.setblocking(False)
        assert (ours.getblocking(), ours.gettimeout()) == (False, 0.0)
        with pytest.raises(BlockingIOError):
            ours.recv(10)
        ours.settimeout(0.05)
        assert (ours.getblocking(), ours.gettimeout()) == (True, 0.05)
        with pytest.raises(TimeoutError):
            ours.recv(10)
        with pytest.raises(TimeoutError):
            ours.sendall(b"a" * 2**24)
        ours.setblocking(True)
        assert (ours.getblocking(), ours.gettimeout()) == (True, None)
        with ThreadPoolExecutor(1) as other:
            received = other.submit(ours.recv, 10)
            time.sleep(0.2)
            assert not received.done()
            theirs.sendall(b"an answer")
            assert received.result() == b"an answer"


def test_a_file_is_sent_as_a_whole_to_a_client_that_reads_slowly(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_bytes(os.urandom(2**23))
    ours, theirs = client_pair()
    with ours, theirs, file.open("rb") as opened, ThreadPoolExecutor(1) as other:
        sending = other.submit(ours.sendfile, opened, 0, 2**23)
        time.sleep(0.1)
        assert theirs.recv(2**23, socket.MSG_WAITALL) == file.read_bytes()
        assert sending.result() == 2**23


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
