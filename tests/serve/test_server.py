"""The server as a process: what only shows with gunicorn, sockets and signals."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import requests

from tests.serve.conftest import Server, Start, wait_until


@pytest.fixture
def started(start: Start, forest_model: Path) -> Server:
    """Return a server of its own, for a test that ends or disturbs it."""
    running = start(forest_model)
    running.wait()
    return running


def test_ping_is_503_until_the_first_prediction(start: Start, forest_model: Path) -> None:
    server = start(forest_model)
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while 200 not in seen and time.monotonic() < deadline:
        seen.append(server.ping())
    assert sorted(set(seen)) == [0, 200, 503]
    assert server.ask("a text").status_code == 200


def test_served_labels_equal_the_predictions_of_training(
    started: Server, forest_model: Path
) -> None:
    with (forest_model / "output/data/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = started.ask([row["text"] for row in rows]).json()
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]


def test_sigterm_lets_the_request_in_hand_finish_and_ends_with_status_0(started: Server) -> None:
    answers: list[requests.Response] = []
    texts = ["a long text " * 60] * 150
    client = threading.Thread(target=lambda: answers.append(started.ask(texts)))
    client.start()
    wait_until(lambda: started.metric("optml_texts_total") > 0)
    assert not answers  # still in hand
    started.process.send_signal(signal.SIGTERM)
    client.join()
    assert [len(answer.json()) for answer in answers] == [150]
    assert started.process.wait(timeout=30) == 0


def test_requests_in_hand_finish_also_after_others_broke_off(started: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n"
    for _ in range(4):
        with started.connect() as broken:
            broken.sendall(head + b'"a')
    assert started.ask("a text").status_code == 200
    with started.connect() as connection:
        connection.sendall(head + b'"a t')
        time.sleep(0.5)  # the server has begun to read
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert "Worker exiting" not in started.log.read_text()
        connection.sendall(b'ext"')
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert started.process.wait(timeout=30) == 0


def test_silent_connections_do_not_hold_up_the_end(started: Server) -> None:
    silent = [started.connect() for _ in range(20)]
    kept = requests.Session()
    assert kept.get(f"{started.url}/ping", timeout=60).status_code == 200
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(timeout=25) == 0
    for connection in silent:
        connection.close()
    kept.close()


def test_after_sigterm_nobody_is_kept_waiting(started: Server) -> None:
    started.process.send_signal(signal.SIGTERM)
    statuses = []
    while started.process.poll() is None:
        try:
            statuses.append(started.ask("a text", timeout=30).status_code)
        except requests.ConnectionError:
            statuses.append(0)
    assert statuses[-1] == 0
    assert set(statuses) <= {0, 200, 503}


def test_a_killed_worker_is_replaced(server: Server) -> None:
    (worker,) = (
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    )
    os.kill(int(worker), signal.SIGKILL)
    while server.ping() == 200:
        time.sleep(0.05)
    server.wait()
    assert server.ask("a text").status_code == 200


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


def test_the_model_directory_is_not_written_to(started: Server, forest_model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (forest_model / "model").rglob("*")}
    started.ask(["a", "b"])
    assert {path: path.stat().st_mtime_ns for path in (forest_model / "model").rglob("*")} == before


def test_the_cpu_path_imports_neither_torch_nor_transformers(started: Server) -> None:
    mapped = Path(f"/proc/{started.worker()}/maps").read_text()
    assert "libopenvino" in mapped
    assert "libtorch" not in mapped


def test_a_fine_tuned_model_is_served(start: Start, finetuned_model: Path) -> None:
    server = start(finetuned_model)
    server.wait()
    with (finetuned_model / "output/data/predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = server.ask([row["text"] for row in rows]).json()
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]
