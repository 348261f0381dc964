"""How tests run containers, wait for them and ask them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

Docker = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., str]

STRICT = ("--network=none", "--read-only", "--tmpfs=/tmp", "--user=65534:65534")
"""As the platform may run an image at its strictest."""

# A container without a network can be asked only from within.
ASK = """\
import base64, json, sys, urllib.error, urllib.request
method, path, body, headers = sys.argv[1:]
request = urllib.request.Request(
    "http://127.0.0.1:8080" + path, base64.b64decode(body) or None, json.loads(headers),
    method=method,
)
try:
    answer = urllib.request.urlopen(request, timeout=120)
except urllib.error.HTTPError as error:
    answer = error
except urllib.error.URLError:
    sys.exit(1)
body = base64.b64encode(answer.read()).decode()
print(json.dumps([answer.status, answer.headers["Content-Type"], body]))
"""


@dataclass(frozen=True)
class Answer:
    """What a server answers; the status is 0 where none does."""

    status: int
    content_type: str | None
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Endpoint:
    """A server in a container."""

    def __init__(self, docker: Docker, container: str) -> None:
        self._docker, self._container = docker, container

    def ask(self, method: str, path: str, body: str | bytes = b"", **headers: str) -> Answer:
        """Send a request; names of headers have underscores."""
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = base64.b64encode(body.encode() if isinstance(body, str) else body).decode()
        request = (method, path, content, json.dumps(sent))
        done = self._docker("exec", self._container, "python3", "-c", ASK, *request, check=False)
        if done.returncode:
            return Answer(0, None, self.logs().encode())
        status, content_type, answer = json.loads(done.stdout)
        return Answer(status, content_type, base64.b64decode(answer))

    def invoke(self, body: str | bytes, **headers: str) -> Answer:
        return self.ask("POST", "/invocations", body, **headers)

    def logs(self) -> str:
        done = self._docker("logs", self._container)
        return done.stdout + done.stderr

    def wait(self) -> None:
        """Wait for the first 200 of /ping."""

        def answers() -> bool:
            running = self._docker("inspect", "--format={{.State.Running}}", self._container)
            assert running.stdout.strip() == "true", self.logs()
            return self.ask("GET", "/ping").status == 200

        wait_for(answers)


@contextmanager
def containers(docker: Docker) -> Iterator[Start]:
    """Yield a function that starts a container in the background and returns its name."""
    names: list[str] = []

    def run(*arguments: str) -> str:
        names.append(f"test-{uuid.uuid4().hex[:12]}")
        docker("run", "--detach", "--name", names[-1], *arguments)
        return names[-1]

    try:
        yield run
    finally:
        for name in names:
            docker("rm", "--force", name)


@contextmanager
def image_to_train(docker: Docker, directory: Path, script: str) -> Iterator[str]:
    """Yield an image, built from an empty directory, whose `train` is a shell script."""
    (directory / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nCOPY --chmod=755 train /usr/local/bin/\n"
    )
    (directory / "train").write_text(script)
    name = f"test-{uuid.uuid4().hex[:8]}"
    docker("build", "--quiet", "--tag", name, str(directory))
    try:
        yield name
    finally:
        docker("image", "rm", "--force", name)


def open_to_all(directory: Path) -> Path:
    """Let any user of a container into a directory of pytest's, which is its owner's alone."""
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    return directory


def wait_for(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI says that nothing may be missing."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (and REQUIRE_DOCKER=1)")
    pytest.skip(reason)
