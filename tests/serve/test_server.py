"""The server as a process: what only shows with gunicorn, sockets and signals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.serve.conftest import ROOT, Server, Start


@pytest.fixture
def server(start: Start, forest_model: Path) -> Server:
    running = start(forest_model)
    running.wait()
    return running


MESSAGES = ROOT / "local_test/data/messages.csv"


def ask(server: Server, body: object) -> requests.Response:
    return requests.post(f"{server.url}/invocations", json=body, timeout=60)


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((str(address.hostname), address.port or 0), timeout=60)


def test_ping_is_503_until_the_first_prediction(start: Start, forest_model: Path) -> None:
    server = start(forest_model)
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while 200 not in seen and time.monotonic() < deadline:
        seen.append(server.ping())
    assert sorted(set(seen)) == [0, 200, 503]
    assert ask(server, "a text").status_code == 200


def test_served_labels_equal_the_predictions_of_training(
    server: Server, forest_model: Path
) -> None:
    with (forest_model / "output/data/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = ask(server, [row["text"] for row in rows]).json()
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]


def test_2000_concurrent_requests_each_get_their_own_answer(
    start: Start, logistic_model: Path
) -> None:
    server = start(logistic_model)  # its scores differ from text to text more than a forest's
    server.wait()
    with MESSAGES.open(encoding="utf-8", newline="") as file:
        messages = [row["text"] for row in csv.DictReader(file)]
    texts = [f"{text} ({number})" for number in range(5) for text in messages][:2000]
    expected = [answer["score"] for answer in ask(server, texts).json()]
    connections = [connect(server) for _ in texts]  # all are open before the first one asks
    for connection, text in zip(connections, texts, strict=True):
        body = json.dumps(text).encode()
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    for connection, score in zip(connections, expected, strict=True):
        with connection, connection.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert json.loads(body)[0]["score"] == pytest.approx(score, abs=0.02)


def test_ping_does_not_queue_behind_requests(server: Server) -> None:
    batch = ["a long text " * 60] * 8

    with ThreadPoolExecutor(80) as clients:
        answers = [clients.submit(ask, server, batch) for _ in range(80)]
        while not answers[0].done():  # the server now works, and more requests wait than threads
            time.sleep(0.01)
        assert not all(answer.done() for answer in answers)
        assert server.ping() == 200  # with the platform's own limit of 2 s
        for answer in answers:
            assert answer.result().status_code == 200


def test_silent_connections_do_not_keep_requests_waiting(server: Server) -> None:
    silent = [connect(server) for _ in range(200)]
    assert ask(server, "a text").status_code == 200
    for connection in silent:
        connection.close()


def test_a_chunked_body_is_read(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/invocations",
        data=iter([b'{"inputs": ', b'"a text"}']),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert (answer.status_code, len(answer.json())) == (200, 1)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(start: Start, forest_model: Path, chunked: bool) -> None:
    server = start(forest_model, SAGEMAKER_MAX_PAYLOAD_IN_MB="1")
    server.wait()
    body = json.dumps("a" * 2**20).encode()
    answer = requests.post(
        f"{server.url}/invocations", data=iter([body]) if chunked else body, timeout=30
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_sigterm_lets_the_request_in_hand_finish_and_ends_with_status_0(server: Server) -> None:
    answers: list[requests.Response] = []
    texts = ["a long text " * 60] * 400
    client = threading.Thread(target=lambda: answers.append(ask(server, texts)))
    client.start()
    time.sleep(0.5)
    assert not answers  # still in hand
    server.process.send_signal(signal.SIGTERM)
    client.join()
    assert len(answers[0].json()) == 400
    assert server.process.wait(timeout=30) == 0


def test_a_killed_worker_is_replaced(server: Server) -> None:
    (worker,) = (
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    )
    os.kill(int(worker), signal.SIGKILL)
    while server.ping() == 200:
        time.sleep(0.05)
    server.wait()
    assert ask(server, "a text").status_code == 200


def test_a_directory_without_a_model_ends_the_server_with_the_cause_last(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    server = start(tmp_path)
    assert server.process.wait(timeout=30) == 1
    assert "holds no model" in server.log.read_text().splitlines()[-1]


def test_a_damaged_model_ends_the_server_with_the_cause(
    start: Start, tmp_path: Path, forest_model: Path
) -> None:
    shutil.copytree(forest_model / "model", tmp_path / "model")
    with (tmp_path / "model/openvino/encoder.bin").open("r+b") as file:
        file.write(b"damage")
    server = start(tmp_path)
    assert server.process.wait(timeout=60) != 0
    assert "encoder.bin is not the file" in server.log.read_text()


def test_the_model_directory_is_not_written_to(server: Server, forest_model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (forest_model / "model").rglob("*")}
    ask(server, ["a", "b"])
    assert {path: path.stat().st_mtime_ns for path in (forest_model / "model").rglob("*")} == before


def test_the_cpu_path_imports_neither_torch_nor_transformers(server: Server) -> None:
    (worker,) = (
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    )
    mapped = Path(f"/proc/{worker}/maps").read_text()
    assert "libopenvino" in mapped
    assert "libtorch" not in mapped


def test_a_fine_tuned_model_is_served(start: Start, finetuned_model: Path) -> None:
    server = start(finetuned_model)
    server.wait()
    with (finetuned_model / "output/data/predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = ask(server, [row["text"] for row in rows]).json()
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]
