"""A contender that runs: started, asked, weighed, and ended with all its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.serving import CACHE, Unavailable
from bench.serving.contenders import CONTENDERS, Contender
from bench.serving.environments import environment
from bench.serving.models import LABELS, MODELS

__all__ = ["Memory", "Server", "running"]

START_LIMIT_S = 300
ANSWER_LIMIT_S = 120
STOP_LIMIT_S = 30
ORPHANS_LIMIT_S = 3
A_TEXT = "Bridge collapses after the flood"


@dataclass(frozen=True)
class Memory:
    """Of all processes of a contender together, in MB (10^6 bytes)."""

    pss: float
    """A page that several processes share counts once."""
    rss: float
    """It counts in each of them."""
    anonymous: float
    """The part of `pss` that the kernel cannot take back: no pages of files."""


@dataclass(frozen=True)
class Server:
    """A contender that has given its first good answer."""

    name: str
    contender: Contender
    process: subprocess.Popen[bytes]
    port: int
    start_s: float
    """From the start of its process to that answer, with its files in the page cache."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.contender.route}"

    def ask(self, text: str) -> str:
        """Return the label of a text.

        Raises:
            Unavailable: the answer does not come, is not 200, or none that was agreed on.
        """
        try:
            status, answer = post(self.port, self.contender.route, self.contender.body(text))
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"it does not answer a text of {len(text)} characters: {error!r}"
            ) from None
        if status != 200:
            raise Unavailable(f"it answers {status}: {answer[:300]!r}")
        try:
            return self.contender.label(json.loads(answer))
        except (ValueError, LookupError, TypeError):
            raise Unavailable(f"it answers {answer[:300]!r}") from None

    def agreement(self, texts: Sequence[str], expected: Sequence[str]) -> float:
        """Return the share of the texts that get the expected label."""
        labels = [self.ask(text) for text in texts]
        return sum(a == b for a, b in zip(labels, expected, strict=True)) / len(labels)

    def memory(self) -> Memory:
        """Weigh all processes of the contender."""
        sums = dict.fromkeys(("Pss", "Rss", "Pss_Anon"), 0.0)
        for process in _processes(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
                    key, value = line.split(":")
                    if key in sums:
                        sums[key] += int(value.removesuffix("kB")) * 1.024e-3
        return Memory(pss=sums["Pss"], rss=sums["Rss"], anonymous=sums["Pss_Anon"])


@contextmanager
def running(
    name: str, data: Path, contender: Contender | None = None, **variables: str
) -> Iterator[Server]:
    """Start a contender, wait for its first good answer, and end it afterwards.

    Without `contender` it is the one of that name. `variables` go into its environment.

    Raises:
        Unavailable: it cannot be installed or does not come up.
    """
    contender = contender or CONTENDERS[name]
    if missing := [program for program in contender.needs if not shutil.which(program)]:
        raise Unavailable(f"it needs {', '.join(missing)} on PATH")
    job = MODELS[contender.model](data)
    bin_directory = Path(sys.executable).parent
    if contender.packages:
        bin_directory = environment(contender.environment, contender.packages)
    port = free_port()
    places = {
        "bin": str(bin_directory),
        "apps": str(Path(__file__).parent / "apps"),
        "job": str(job),
        "model": str(job / "model"),
        "port": str(port),
        "spare": str(free_port()),
        "cores": str(len(os.sched_getaffinity(0))),
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OPTML_")}
    own_variables = {key: value.format(**places) for key, value in contender.variables.items()}
    log = CACHE / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # What a server leaves in a temporary directory, such as the number of its process, must not
    # be found by the next.
    with tempfile.TemporaryDirectory() as scratch, log.open("wb") as output:
        own = {
            "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": scratch,
            "HF_HUB_OFFLINE": "1",
        }
        started = time.monotonic()
        process = subprocess.Popen(
            [part.format(**places) for part in contender.command],
            cwd=contender.tree if not contender.packages else scratch,
            env=inherited | own | own_variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Some servers start processes that outlive the one that started them.
            start_new_session=True,
        )
        try:
            _await_answer(contender, process, port, log)
            yield Server(name, contender, process, port, time.monotonic() - started)
        finally:
            _stop(process)


def post(
    port: int,
    route: str,
    body: Any,
    content_type: str = "application/json",
    limit_s: float = ANSWER_LIMIT_S,
) -> tuple[int, bytes]:
    """Send a JSON value, or bytes as they are, over a new connection; return status and answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("POST", route, content, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """Return a port that nothing listens on, from a range that no client gets one from."""
    while True:
        port = random.randrange(20_000, 32_000)  # multi-model-server takes none above 32767
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _await_answer(
    contender: Contender, process: subprocess.Popen[bytes], port: int, log: Path
) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"it ended with status {process.returncode}: {_tail(log)}")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError):
            status, answer = post(port, contender.route, contender.body(A_TEXT))
            if status == 200 and contender.label(json.loads(answer)) in LABELS:
                return
        time.sleep(0.02)
    raise Unavailable(f"no good answer within {START_LIMIT_S} s: {_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_S)
    deadline = time.monotonic() + ORPHANS_LIMIT_S
    while (left := _processes(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for orphan in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    process.wait()


def _processes(session: int) -> list[psutil.Process]:
    """Return the processes of a session that are alive."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " | ".join(line.strip() for line in lines if line.strip())[-400:]
