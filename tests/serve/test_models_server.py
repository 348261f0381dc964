"""A multi-model server as a process: memory, and the loss of its worker."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest
import requests

from tests.serve.conftest import Server, Start
from tests.serve.models import MB, relabelled, with_its_own_encoder


@pytest.fixture
def server(start: Start, tmp_path: Path) -> Server:
    running = start(tmp_path, SAGEMAKER_MULTI_MODEL="true")  # there is no model directory
    running.wait()
    return running


def load(server: Server, name: str, directory: Path) -> requests.Response:
    wish = {"model_name": name, "url": str(directory)}
    return requests.post(f"{server.url}/models", json=wish, timeout=120)


def ask(server: Server, name: str) -> requests.Response:
    return requests.post(f"{server.url}/models/{name}/invoke", json=["a flood"] * 9, timeout=60)


def status(server: Server, key: str) -> int:
    """Return a number of the worker's /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{server.worker()}/status").read_text().splitlines()
    return int(dict(line.split(":\t") for line in lines)[key].split()[0]) * 1024


def test_models_are_loaded_asked_and_unloaded(
    server: Server, tmp_path: Path, logistic_model: Path, forest_model: Path
) -> None:
    trees = {"red": logistic_model, "blue": forest_model}
    for name, tree in trees.items():
        directory = relabelled(tree, tmp_path / name / "model", name, "other")
        assert load(server, name, directory).status_code == 200
    for name in trees:
        assert ask(server, name).json()[0]["label"] == name
        assert requests.delete(f"{server.url}/models/{name}", timeout=60).status_code == 200
        assert ask(server, name).status_code == 404
    assert server.ping() == 200


def test_a_model_gives_its_memory_back_and_an_encoder_in_common_is_there_once(
    server: Server, tmp_path: Path, logistic_model: Path
) -> None:
    load(server, "first", logistic_model / "model")
    ask(server, "first")
    before = status(server, "VmRSS")
    load(server, "same", logistic_model / "model")
    ask(server, "same")
    same = status(server, "VmRSS") - before
    load(server, "other", with_its_own_encoder(logistic_model, tmp_path / "other"))
    ask(server, "other")
    other = status(server, "VmRSS") - before - same
    assert other > 100 * MB
    assert same < 40 * MB
    for name in ("same", "other"):
        requests.delete(f"{server.url}/models/{name}", timeout=60)
    assert status(server, "VmRSS") - before < 40 * MB
    assert ask(server, "first").status_code == 200


def test_memory_that_runs_out_while_a_model_is_loaded_is_507_and_leaves_nothing(
    server: Server, tmp_path: Path, logistic_model: Path
) -> None:
    load(server, "first", logistic_model / "model")
    other = with_its_own_encoder(logistic_model, tmp_path / "other")
    worker, no_limit = server.worker(), resource.RLIM_INFINITY
    resource.prlimit(worker, resource.RLIMIT_AS, (status(server, "VmSize") + 100 * MB, no_limit))
    answer = load(server, "other", other)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_memory")
    assert ask(server, "other").status_code == 404
    assert ask(server, "first").status_code == 200
    resource.prlimit(worker, resource.RLIMIT_AS, (no_limit, no_limit))
    assert load(server, "other", other).status_code == 200


def test_models_are_there_after_their_worker_was_killed(
    server: Server, logistic_model: Path
) -> None:
    load(server, "first", logistic_model / "model")
    load(server, "second", logistic_model / "model")
    requests.delete(f"{server.url}/models/second", timeout=60)
    killed = server.worker()
    os.kill(killed, signal.SIGKILL)
    while Path(f"/proc/{killed}").exists():  # until it is reaped
        time.sleep(0.05)
    server.wait()
    assert ask(server, "first").status_code == 200
    assert ask(server, "second").status_code == 404
