"""Connections: load, refusals, broken and slow clients, bodies of any size."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import product
from pathlib import Path

import pytest
import requests
from gunicorn.http import body as gunicorn_body
from gunicorn.http.unreader import SocketUnreader

from serve import predictor
from serve.body import Body
from serve.errors import Stalled
from serve.launcher import THREADS
from serve.worker import NICENESS, limit_waiting
from tests.serve.conftest import ROOT, Server, Start, wait_until

POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = ["a long text " * 60] * 8
"""A body that takes the model a while."""


def post(text: str, *headers: str) -> bytes:
    """Return the bytes of a request for one text."""
    data = json.dumps(text).encode()
    lines = b"".join(f"{header}\r\n".encode() for header in headers)
    return POST + lines + b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


def messages(count: int) -> list[str]:
    """Return so many unlike texts."""
    with (ROOT / "local_test/data/messages.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["text"] for row in csv.DictReader(file)]
    return [f"{rows[number % len(rows)]} ({number})" for number in range(count)]


def read_answer(stream: socket.SocketIO | object) -> tuple[int, dict[str, str], bytes]:
    """Read one answer from a connection's file."""
    readline: Callable[[], bytes] = stream.readline  # type: ignore[union-attr]
    status = int(readline().split(b" ")[1])
    headers: dict[str, str] = {}
    while line := readline().strip():
        name, _, value = line.decode("latin-1").partition(": ")
        headers[name.lower()] = value
    return status, headers, stream.read(int(headers["content-length"]))  # type: ignore[union-attr]


def exchange(server: Server, data: bytes, half_closed: bool = False) -> tuple[int, bytes]:
    """Send bytes and return the status and body of the answer."""
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(data)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        status, _, body = read_answer(stream)
        return status, body


# Many at a time


def test_a_thousand_requests_at_once_each_get_their_own_answer_or_a_refusal(
    server: Server,
) -> None:
    texts = messages(1000)
    expected = [answer["score"] for answer in server.ask(texts).json()]
    connections = [server.connect() for _ in texts]  # all are open before the first one asks
    for connection, text in zip(connections, texts, strict=True):
        connection.sendall(post(text, "Connection: close"))
    refused = 0
    for connection, score in zip(connections, expected, strict=True):
        with connection, connection.makefile("rb") as stream:
            status, headers, body = read_answer(stream)
        if status == 503:
            refused += 1
            assert headers["retry-after"] == "1"
            assert json.loads(body)["error"]["code"] == "overloaded"
            assert json.loads(body)["error"]["request_id"] == headers["x-request-id"]
        else:
            assert (status, json.loads(body)[0]["score"]) == (200, pytest.approx(score, abs=0.02))
    assert refused <= 500


def test_requests_over_the_limit_are_refused_and_ping_is_answered(
    start: Start, logistic_model: Path
) -> None:
    server = start(logistic_model, OPTML_MAX_REQUESTS="3")
    server.wait()
    in_hand = [server.connect() for _ in range(3)]
    for connection in in_hand:
        connection.sendall(CHUNKED)
    for _ in range(2):  # who answers the second has taken what had come before the first
        server.ping()
    wait_until(lambda: server.ask("a text").status_code == 503)
    refused = server.ask("a text")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert "3 requests are in hand" in refused.json()["error"]["message"]
    assert server.ping() == 200
    for connection in in_hand:
        with connection, connection.makefile("rb") as stream:
            connection.sendall(b'3\r\n"a"\r\n0\r\n\r\n')
            assert read_answer(stream)[0] == 200
    wait_until(lambda: server.ask("a text").status_code == 200)
    assert server.metric('optml_requests_total{status="503"}') >= 1
    assert "requests were refused" in server.log.read_text()


def test_more_clients_than_there_may_be_open_files_wait_until_others_are_gone(
    start: Start, logistic_model: Path
) -> None:
    server = start(logistic_model)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (100, 300))
    server.wait()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(400)]
        clients[0].sendall(post("a text"))
        assert read_answer(stack.enter_context(clients[0].makefile("rb")))[0] == 200
        clients[-1].sendall(post("a text", "Connection: close"))
        time.sleep(1)  # long enough for all that there is room for to be accepted
        for client in clients[:-1]:
            client.close()
        assert read_answer(stack.enter_context(clients[-1].makefile("rb")))[0] == 200
    assert server.ping() == 200
    assert "Booting" not in server.log.read_text().partition("model ready")[2]


def test_clients_wait_while_no_file_can_be_opened_and_the_log_says_so_now_and_then(
    start: Start, logistic_model: Path
) -> None:
    server = start(logistic_model)
    server.wait()
    limits = resource.prlimit(server.worker(), resource.RLIMIT_NOFILE)
    resource.prlimit(server.worker(), resource.RLIMIT_NOFILE, (3, limits[1]))
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(post("a text"))
        wait_until(lambda: "no connection can be accepted" in server.log.read_text())
        time.sleep(0.2)  # in which it is tried again
        resource.prlimit(server.worker(), resource.RLIMIT_NOFILE, limits)
        assert read_answer(stream)[0] == 200
    assert server.log.read_text().count("no connection can be accepted") == 1


def test_ping_is_answered_while_every_thread_is_busy(server: Server) -> None:
    clients = THREADS + 16
    with ThreadPoolExecutor(clients) as pool:
        answers = [pool.submit(server.ask, SLOW) for _ in range(clients)]
        while not answers[0].done():  # the server now works, and more requests wait than threads
            time.sleep(0.01)
        assert not all(answer.done() for answer in answers)
        for method in ("GET", "HEAD", "POST"):  # with the platform's own limit of time
            ping = requests.request(method, f"{server.url}/ping", timeout=2)
            assert (ping.status_code, ping.content) == (200, b"")
        for answer in answers:
            assert answer.result().status_code == 200


def test_requests_and_the_engine_stand_back_behind_who_accepts_connections(
    server: Server,
) -> None:
    server.ask("a text")
    worker = server.worker()
    others = set()
    for thread in Path(f"/proc/{worker}/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            number = int(thread.name)
            policy = os.sched_getscheduler(number)
            others.add((os.getpriority(os.PRIO_PROCESS, number), policy))
    assert os.getpriority(os.PRIO_PROCESS, worker) < NICENESS < predictor.NICENESS
    assert os.sched_getscheduler(worker) == os.SCHED_OTHER
    assert {(NICENESS, os.SCHED_BATCH), (predictor.NICENESS, os.SCHED_IDLE)} <= others


def test_a_small_request_does_not_wait_for_a_large_one(server: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(server.ask, SLOW * 40)
        wait_until(lambda: server.metric("optml_waiting_tokens") > 0)
        assert server.ask("a text").status_code == 200
        assert not large.done()
        assert len(large.result().json()) == 320


# Connections


def test_requests_of_one_connection_are_answered_in_turn(server: Server) -> None:
    texts = messages(20)
    expected = [answer["score"] for answer in server.ask(texts).json()]
    with requests.Session() as session:
        for text, score in zip(texts, expected, strict=True):
            answer = session.post(f"{server.url}/invocations", json=text, timeout=60)
            assert answer.json()[0]["score"] == pytest.approx(score, abs=0.02)
            assert session.get(f"{server.url}/ping", timeout=60).status_code == 200


def test_requests_that_are_sent_ahead_are_answered_in_order(server: Server) -> None:
    texts = messages(20)
    expected = [answer["score"] for answer in server.ask(texts).json()]
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(ping + b"".join(post(text) + ping for text in texts))
        assert read_answer(stream)[::2] == (200, b"")
        for score in expected:
            status, _, body = read_answer(stream)
            assert (status, json.loads(body)[0]["score"]) == (200, pytest.approx(score, abs=0.02))
            assert read_answer(stream)[::2] == (200, b"")


def test_a_request_in_pieces_is_answered_and_keeps_nobody_waiting(server: Server) -> None:
    with server.connect() as connection, connection.makefile("rb") as stream:
        for byte in post("a text"):
            connection.sendall(bytes([byte]))
            time.sleep(0.005)
            if byte == ord("x"):
                assert server.ask("another").status_code == 200
        assert read_answer(stream)[0] == 200


def test_silent_connections_do_not_keep_requests_waiting(server: Server) -> None:
    silent = [server.connect() for _ in range(200)]
    assert server.ask("a text").status_code == 200
    for connection in silent:
        connection.close()


def test_a_client_that_waits_to_be_told_to_go_on_is_told(server: Server) -> None:
    head, _, data = post("a text", "Expect: 100-continue").partition(b"\r\n\r\n")
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(head + b"\r\n\r\n")
        assert stream.readline().startswith(b"HTTP/1.1 100")
        stream.readline()
        connection.sendall(data)
        assert read_answer(stream)[0] == 200


def test_the_work_of_a_client_that_has_gone_is_dropped(server: Server) -> None:
    executed = server.metric("optml_texts_total")
    gone = server.metric('optml_requests_total{status="499"}')
    data = json.dumps(SLOW * 400).encode()
    with server.connect() as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        wait_until(lambda: server.metric("optml_texts_total") > executed)
    wait_until(lambda: server.metric('optml_requests_total{status="499"}') == gone + 1)
    wait_until(lambda: server.metric("optml_waiting_tokens") == 0)
    assert server.metric("optml_texts_total") - executed < 3200
    assert server.ask("a text").status_code == 200


def test_the_log_has_a_json_line_for_each_request_with_its_ids(server: Server) -> None:
    headers = {"X-Amzn-SageMaker-Inference-Id": "inference-7"}
    answer = requests.post(f"{server.url}/invocations", json="a text", headers=headers, timeout=60)
    assert answer.headers["X-Amzn-SageMaker-Inference-Id"] == "inference-7"
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("inference_id") == "inference-7"]
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["status"], line["message"]) == (200, "POST /invocations 200")


# Broken requests


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (POST + b'Content-Length: 50\r\n\r\n"abc', "ended after 4 bytes; Content-Length says 50"),
        (CHUNKED + b'5\r\n"abc', "ended before its last chunk"),
        (CHUNKED + b'5\r\n"abc"\r\n', "ended before its last chunk"),
        (CHUNKED + b'zz\r\n"abc"\r\n', "not in chunks"),
        (CHUNKED + b'3\r\n"a"XX0\r\n\r\n', "not in chunks"),
        (POST + b"\r\n", "the body is empty"),
        (b"no request\r\n\r\n", "no request that is read here"),
        (POST + b"Content-Length: -3\r\n\r\n", "no request that is read here"),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", "no request that is read here"),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), "no request that is read"),
        (b"GET /ping2 HTTP/1.1\r\nHost: x\r\nA b: 1\r\n\r\n", "no request that is read here"),
    ],
)
def test_what_is_no_whole_request_is_told_so(server: Server, data: bytes, message: str) -> None:
    status, body = exchange(server, data, half_closed=True)
    assert status == 400
    error = json.loads(body)["error"]
    assert (error["code"], bool(error["request_id"])) == ("bad_request", True)
    assert message in error["message"]


def test_a_packed_body_is_refused(server: Server) -> None:
    status, body = exchange(server, post("a text", "Content-Encoding: gzip"))
    assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")


def test_clients_that_stall_while_they_send_keep_nobody_waiting(server: Server) -> None:
    whole = post("a text of more than a few bytes")
    starts = [
        whole[:40],
        whole[:-5],
        CHUNKED + b'3\r\n"a"\r\n',
        POST + b"Content-Length: 99999\r\n\r\n",
    ]
    stalling = [(server.connect(), start) for start in starts for _ in range(80)]
    for connection, start in stalling:
        connection.sendall(start)
    for _ in range(5):
        for connection, _ in stalling[80:160]:
            connection.sendall(b" ")
        assert server.ask("another").status_code == 200
        assert requests.post(f"{server.url}/invocations", json="a" * 50_000, timeout=30).ok
    for connection, _ in stalling:
        connection.close()


def test_a_request_that_had_stalled_is_answered_once_it_is_whole(server: Server) -> None:
    with server.connect() as connection, connection.makefile("rb") as stream:
        for part in (
            post("a text")[:50],
            post("a text")[50:-1],
            post("a text")[-1:] + post("b")[:-4],
        ):
            connection.sendall(part)
            time.sleep(0.1)
        assert read_answer(stream)[0] == 200
        connection.sendall(post("b")[-4:])
        assert read_answer(stream)[0] == 200


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.body.GRACE", 0.0)
    slow = io.BytesIO(b"a" * 9)
    body = Body({"wsgi.input": slow, "CONTENT_LENGTH": "9"}, limit=100)
    time.sleep(0.05)
    with pytest.raises(Stalled, match="9 bytes in 0 s"):
        body.read(9)


def test_a_client_that_stalls_is_told_so() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        limit_waiting(ours, 0.05)
        stream = gunicorn_body.Body(gunicorn_body.LengthReader(SocketUnreader(ours), 9))
        body = Body({"wsgi.input": stream, "CONTENT_LENGTH": "9"}, limit=100)
        theirs.sendall(b"abc")
        with pytest.raises(Stalled):
            body.read(9)


def test_nobody_waits_for_a_client_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        limit_waiting(ours, 0.05)
        with pytest.raises(BlockingIOError):
            ours.sendall(b"a" * 10 * MEGABYTE)


# Large bodies


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_over_the_limit_is_413(start: Start, logistic_model: Path, chunked: bool) -> None:
    server = start(logistic_model, SAGEMAKER_MAX_PAYLOAD_IN_MB="1")
    server.wait()
    media_types = ["application/json", "text/plain", "application/jsonlines", "text/csv"]
    sizes = {2**20: 200, 2**20 + 1: 413, 5 * 2**20: 413}
    for media_type, (size, expected) in product(media_types, sizes.items()):
        data = b'"' + b"a" * (size - 2) + b'"'
        answer = requests.post(
            f"{server.url}/invocations",
            data=iter([data]) if chunked else data,
            headers={"Content-Type": media_type},
            timeout=120,
        )
        assert answer.status_code == expected
        if expected == 413:
            assert answer.json()["error"]["code"] == "too_large"
            assert "larger than 1 MB" in answer.json()["error"]["message"]


MEGABYTE = 10**6
LINES = 20
"""Lines of a megabyte: mostly blank, so that reading them is what costs, not the model."""
FLAT = 60 * MEGABYTE
"""Bytes by which the memory may grow at its peak, whatever the size of the body."""


def megabyte(number: int) -> bytes:
    """Return a megabyte of lines, of which every fourth has a text, the others a mistake."""
    width = MEGABYTE // LINES - 1
    names = ["no" if line % 4 else "inputs" for line in range(LINES)]
    lines = [f'{{"{name}": "flood {number}'.ljust(width - 2) + '"}' for name in names]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def batch_server(
    logistic_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(
        logistic_model,
        tmp_path_factory.mktemp("batch") / "log",
        SAGEMAKER_BATCH="true",
        OPTML_PRECISION="fp32",  # has no graphs of single shapes, which take memory once they come
    )
    server.wait()
    yield server
    server.end()


def peak(server: Server) -> int:
    """Return the bytes of memory that the worker had at its peak, and begin anew."""
    status = Path(f"/proc/{server.worker()}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    Path(f"/proc/{server.worker()}/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [25, 100])
def test_a_large_body_of_lines_is_answered_line_by_line_in_flat_memory(
    batch_server: Server, size: int, chunked: bool
) -> None:
    headers = {"Content-Type": "application/jsonlines"}

    def send(megabytes: int) -> list[bytes]:
        parts = (megabyte(number) for number in range(megabytes))
        answer = requests.post(
            f"{batch_server.url}/invocations",
            data=parts if chunked else b"".join(parts),
            headers=headers,
            timeout=600,
        )
        assert answer.status_code == 200, answer.text
        return answer.content.split(b"\n")

    send(4)
    peak(batch_server)
    before = peak(batch_server)
    lines = send(size)
    assert len(lines) == size * LINES
    answered = [number for number, line in enumerate(lines) if b'"label"' in line]
    assert answered == list(range(0, size * LINES, 4))
    assert peak(batch_server) - before < FLAT


def test_answers_that_are_larger_than_memory_should_hold_are_sent_whole(
    batch_server: Server,
) -> None:
    answer = requests.post(
        f"{batch_server.url}/invocations",
        data=b'{"no": 1}\n' * 80_000,
        headers={"Content-Type": "application/jsonlines"},
        timeout=600,
    )
    lines = answer.content.split(b"\n")
    assert len(lines) == 80_000
    assert len(answer.content) > 8 * 2**20
    assert len(set(lines)) == 1


def test_a_large_request_in_the_making_does_not_delay_small_ones(server: Server) -> None:
    stop = threading.Event()

    def drip() -> Iterator[bytes]:
        yield b'"a text"\n'
        while not stop.wait(0.05):
            yield b'"a text"\n'

    url, headers = f"{server.url}/invocations", {"Content-Type": "application/jsonlines"}
    with ThreadPoolExecutor(4) as pool:
        slow = [
            pool.submit(requests.post, url, drip(), headers=headers, timeout=120) for _ in "abcd"
        ]
        for _ in range(10):
            assert server.ask("another").status_code == 200
        stop.set()
        for answer in slow:
            assert set(answer.result().text.split("\n")) == {answer.result().text.split("\n")[0]}
