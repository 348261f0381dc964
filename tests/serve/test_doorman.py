"""Once all workers are full: who is refused, who is passed on, and that no worker is needed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import psutil
import pytest

from serve import workers
from serve.doorman import PATIENCE, Passage
from serve.workers import Scoreboard
from tests.serve.conftest import Server, Start, connections, wait_until
from tests.serve.test_worker import CHUNKED, post, read_answer

LIMIT = 4
LAST_CHUNK = b'3\r\n"a"\r\n0\r\n\r\n'

Fill = Callable[..., Server]


@pytest.fixture
def in_hand() -> Iterator[list[socket.socket]]:
    """Connections whose requests are in hand, and not yet whole."""
    opened: list[socket.socket] = []
    yield opened
    for connection in opened:
        connection.close()


@pytest.fixture
def fill(start: Start, logistic_model: Path, in_hand: list[socket.socket]) -> Fill:
    def full(**environment: str) -> Server:
        server = start(logistic_model, OPTML_MAX_REQUESTS=str(LIMIT), **environment)
        server.wait()
        for _ in range(LIMIT):
            in_hand.append(server.connect())
            in_hand[-1].sendall(CHUNKED)
        wait_until(lambda: server.ask("a text").status_code == 503)
        return server

    return full


def finish(connection: socket.socket) -> int:
    """Send the rest of a request that is in hand, and return the status of its answer."""
    with connection, connection.makefile("rb") as stream:
        connection.sendall(LAST_CHUNK)
        return read_answer(stream)[0]


def test_refusals_and_health_checks_wait_for_no_worker(fill: Fill) -> None:
    server = fill()
    assert server.ping() == 200
    worker = psutil.Process(server.worker())
    worker.suspend()
    try:
        refused = server.ask("a text", timeout=5)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert server.ping() == 200
        wait_until(lambda: server.ping() == 0)  # as nothing was heard of the worker any more
    finally:
        worker.resume()
    wait_until(lambda: server.ping() == 200)


def test_a_worker_is_healthy_for_a_moment_after_it_was_found_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Scoreboard(1)
    board.begin(0)
    assert not board.is_healthy(0)
    board.note_healthy(0)
    assert board.is_healthy(0)
    monkeypatch.setattr(workers, "_MOMENT", 0)
    assert not board.is_healthy(0)


def test_a_request_in_two_parts_is_refused_once_it_is_whole(fill: Fill) -> None:
    server = fill()
    request = post("a text")
    worker = psutil.Process(server.worker())
    worker.suspend()
    try:
        with server.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(request[:50])
            time.sleep(PATIENCE / 4)
            connection.sendall(request[50:-4])
            time.sleep(PATIENCE / 4)
            connection.sendall(request[-4:])
            assert read_answer(stream)[0] == 503
    finally:
        worker.resume()


def test_a_request_whose_rest_does_not_come_soon_is_a_workers(
    fill: Fill, in_hand: list[socket.socket]
) -> None:
    server = fill()
    request = post("a text")
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(request[:50])
        worker = psutil.Process(server.worker())
        wait_until(lambda: connections(worker) > LIMIT)
        while in_hand:
            assert finish(in_hand.pop()) == 200
        connection.sendall(request[50:])
        assert read_answer(stream)[0] == 200


def test_as_many_are_passed_on_as_there_is_room_for(
    fill: Fill, in_hand: list[socket.socket]
) -> None:
    server = fill()
    assert finish(in_hand.pop()) == 200
    wait_until(lambda: server.ask("a text").status_code == 200)
    wait_until(lambda: server.metric("optml_requests_in_hand") == LIMIT)  # this one counts too
    in_hand.append(server.connect())
    in_hand[-1].sendall(CHUNKED)
    wait_until(lambda: server.ask("a text").status_code == 503)


def test_a_silent_client_of_a_full_server_is_answered_when_it_asks_later(
    fill: Fill, in_hand: list[socket.socket]
) -> None:
    server = fill()
    with server.connect() as silent, silent.makefile("rb") as stream:
        worker = psutil.Process(server.worker())
        wait_until(lambda: connections(worker) > LIMIT)
        while in_hand:
            assert finish(in_hand.pop()) == 200
        silent.sendall(post("a text"))
        assert read_answer(stream)[0] == 200


def test_a_large_request_is_refused_without_cutting_the_answer_off(fill: Fill) -> None:
    server = fill()
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(post("a text " * 500_000))
        status, headers, body = read_answer(stream)
    assert (status, headers["retry-after"]) == (503, "1")
    assert b"overloaded" in body


def test_refusals_count_in_the_metrics_and_appear_in_the_log(
    fill: Fill, in_hand: list[socket.socket]
) -> None:
    server = fill()
    assert [server.ask("a text").status_code for _ in range(5)] == [503] * 5
    while in_hand:
        assert finish(in_hand.pop()) == 200
    refused = 'optml_requests_total{status="503"}'
    wait_until(lambda: server.metric(refused) >= 6)
    assert server.metric(refused) == server.metric(refused)
    assert f"requests were refused, as {LIMIT} are in hand" in server.log.read_text()


def test_workers_are_full_when_all_are_and_the_message_names_the_limit_of_all(
    fill: Fill, in_hand: list[socket.socket]
) -> None:
    server = fill(SAGEMAKER_MODEL_SERVER_WORKERS="2")
    refused = server.ask("a text")
    assert f"{LIMIT} requests are in hand" in refused.json()["error"]["message"]
    assert server.ping() == 200
    while in_hand:
        assert finish(in_hand.pop()) == 200
    wait_until(lambda: {server.ask("a text").status_code for _ in range(5)} == {200})


def test_a_full_worker_that_is_killed_is_replaced_by_one_that_takes_requests(fill: Fill) -> None:
    server = fill()
    os.kill(server.worker(), signal.SIGKILL)
    wait_until(lambda: server.ask("a text").status_code == 200)


def test_sigterm_ends_a_full_server_with_answers(fill: Fill, in_hand: list[socket.socket]) -> None:
    server = fill()
    server.process.terminate()
    while in_hand:
        assert finish(in_hand.pop()) == 200
    assert server.process.wait(timeout=30) == 0


def test_a_connection_goes_through_a_passage_with_what_has_come_on_it() -> None:
    passage = Passage()
    ours, theirs = socket.socketpair()
    try:
        with pytest.raises(BlockingIOError):
            passage.take()
        theirs.sendall(b"a request")
        passage.give(ours)
        ours.close()
        taken = passage.take()
        assert taken is not None
        with taken:
            assert taken.recv(100) == b"a request"
            assert not taken.get_inheritable()
        passage._outside.send(b".")  # what arrives where no more files may be open
        assert passage.take() is None
    finally:
        passage.close()
        theirs.close()


def test_a_passage_that_nobody_empties_says_so() -> None:
    passage = Passage()
    ours, theirs = socket.socketpair()
    try:
        for _ in range(10):
            passage.give(ours)
        with pytest.raises(BlockingIOError):
            deque(map(passage.give, repeat(ours, 100_000)))
    finally:
        passage.close()
        ours.close()
        theirs.close()
