"""The process: how it ends, and that it is replaced."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import requests

from serve.device import is_lost
from tests.serve.conftest import Server, Start, wait_until
from textmodel.hardware import cpu_count

LONG = ["a long text " * 300] * 8


def load(server: Server, clients: int = 16) -> list[threading.Thread]:
    """Have clients ask until the server is gone."""

    def ask() -> None:
        try:
            while True:
                server.ask(LONG)
        except requests.RequestException:
            pass

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.metric("optml_texts_total") > 8)
    return threads


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_server_that_ends_under_load_ends_well(
    start: Start, logistic_model: Path, number: int
) -> None:
    server = start(logistic_model)
    server.wait()
    clients = load(server)
    server.process.send_signal(number)
    assert server.process.wait(60) == 0
    for client in clients:
        client.join()
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert "was sent" not in server.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
def test_the_engine_leaves_the_cores_to_the_thread_that_accepts(
    start: Start, logistic_model: Path
) -> None:
    server = start(logistic_model)
    server.wait()
    pid = server.worker()
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    niceness = {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    assert niceness[pid] == os.getpriority(os.PRIO_PROCESS, 0)
    assert list(niceness.values()).count(19) >= cpu_count().value


def test_a_server_that_ends_while_it_loads_ends_well(start: Start, logistic_model: Path) -> None:
    server = start(logistic_model)
    wait_until(lambda: "Booting worker" in server.log.read_text())
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert "terminate" not in server.log.read_text()


BROKEN = """
import torch

def model_fn(model_dir):
    return None

def predict_fn(data, model):
    if data["inputs"] == "broken":
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return ["fine"]
"""


def test_a_process_that_has_lost_its_gpu_is_replaced(start: Start, tmp_path: Path) -> None:
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text(BROKEN)
    server = start(tmp_path)
    server.wait()
    worker = server.worker()
    answer = server.ask({"inputs": "broken"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "user_code_error")
    assert "illegal memory access" in answer.text
    assert server.ping() == 503
    wait_until(lambda: server.has_worker() and server.worker() != worker)
    server.wait()
    assert server.ask({"inputs": "whole"}).json() == ["fine"]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (ValueError("CUDA error: no"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_only_what_ends_the_use_of_the_gpu_loses_it(error: Exception, lost: bool) -> None:
    wrapped = RuntimeError("predict_fn failed")
    wrapped.__cause__ = error
    assert is_lost(error) == is_lost(wrapped) == lost
