from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from flask.testing import FlaskClient

from serve.app import create_app
from serve.settings import Settings
from serve.text_model import TextModel

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "Server"]


class Server:
    """`python -m serve` on a free port of the loopback."""

    program: tuple[str, ...] = ("-m", "serve")

    def __init__(self, tree: Path, log: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.program],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "SAGEMAKER_BASE_DIR": str(tree),
                    "SAGEMAKER_BIND_TO_PORT": str(port),
                    "OPTML_HOST": "127.0.0.1",
                    "TMPDIR": str(log.parent),  # one that is killed leaves its files
                    "SAGEMAKER_MODEL_SERVER_WORKERS": "1",  # however many cores there are
                    **environment,
                },
            )

    def ping(self) -> int:
        """Return the status of /ping; 0 where nothing answers within the 2 s of the platform."""
        try:
            return requests.get(f"{self.url}/ping", timeout=2).status_code
        except (requests.ConnectionError, requests.Timeout):
            return 0

    def ask(self, body: object, timeout: float = 120) -> requests.Response:
        return requests.post(f"{self.url}/invocations", json=body, timeout=timeout)

    def connect(self) -> socket.socket:
        address = urlsplit(self.url)
        return socket.create_connection((str(address.hostname), address.port or 0), timeout=120)

    def metric(self, name: str) -> float:
        """Return a number of /metrics; 0 where it was not counted yet."""
        lines = requests.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return sum(float(line.split(" ")[1]) for line in lines if line.split(" ")[0] == name)

    def has_worker(self) -> bool:
        return bool(self._children())

    def worker(self) -> int:
        """Return the process id of gunicorn's only worker."""
        return int(self._children())

    def _children(self) -> str:
        pid = self.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while self.ping() != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


def settings(tree: Path | str = "", **environment: str) -> Settings:
    """Return the settings of a server for an /opt/ml tree."""
    return Settings.from_environment({"SAGEMAKER_BASE_DIR": str(tree), **environment})


def load(tree: Path, **environment: str) -> TextModel:
    """Return the model of an /opt/ml tree."""
    model = TextModel()
    given = settings(tree, **environment)
    model.load(given.model, given)
    return model


def client_of(model: TextModel, **environment: str) -> FlaskClient:
    """Return a client that asks a model without a server in between."""
    return create_app(model, settings(**environment)).test_client()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connections(process: psutil.Process) -> int:
    """Return how many connections with clients a process has."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def start_one(tree: Path, **environment: str) -> Server:
        servers.append(Server(tree, tmp_path / f"{len(servers)}.log", **environment))
        return servers[-1]

    yield start_one
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def server(logistic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share, and leave as it was."""
    server = Server(
        logistic_model, tmp_path_factory.mktemp("server") / "log", OPTML_ACCESS_LOG="all"
    )
    server.wait()
    yield server
    server.end()
