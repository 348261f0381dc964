"""Load from `wrk`: so many clients, each sending its next text when the last one is answered."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving import Unavailable
from bench.serving.servers import Server

__all__ = ["Figures", "drive", "driving"]

SCRIPT = Path(__file__).with_name("requests.lua")
WARM_UP_S = 2
ANSWERS_A_CLIENT = 4
LONGEST_S = 90


@dataclass(frozen=True)
class Figures:
    """What clients see."""

    per_s: float
    """Good answers a second."""
    p50_ms: float
    p99_ms: float
    errors: int
    """Answers other than 2xx, broken connections, and none within the limit."""


def drive(server: Server, texts: Sequence[str], clients: int, seconds: int) -> Figures:
    """Warm up, then measure for so many seconds, or longer where the server is slow.

    Each client should get a few answers: at first none waits behind others, and a latency longer
    than the measurement would not be seen at all.

    Raises:
        Unavailable: the server gives no answer.
    """
    with _bodies(server, texts) as file:
        server.ask(texts[0])  # after what it still does for clients of a former load
        rate = _measure(server, file, 0, clients, WARM_UP_S).per_s
        server.ask(texts[0])
        enough = ANSWERS_A_CLIENT * clients / max(rate, 1)
        longer = min(math.ceil(enough), LONGEST_S)
        figures = _measure(server, file, len(texts) // 2, clients, max(seconds, longer))
    if not figures.per_s:
        raise Unavailable(f"no good answer to {clients} clients, {figures.errors} errors")
    return figures


@contextmanager
def driving(server: Server, texts: Sequence[str], clients: int, seconds: int) -> Iterator[None]:
    """Keep a server under load meanwhile, for so many seconds at most."""
    with _bodies(server, texts) as file:
        process = _wrk(server, file, 0, clients, seconds)
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"the load of {seconds} s ended before what it was for")
        finally:
            process.kill()
            process.communicate()


def _measure(server: Server, bodies: Path, begin: int, clients: int, seconds: int) -> Figures:
    wrk = _wrk(server, bodies, begin, clients, seconds)
    output, _ = wrk.communicate()
    if wrk.returncode:
        raise Unavailable(f"it is gone under load: {output.decode().strip()}")
    values: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Figures(
        per_s=(values["requests"] - values["refused"]) / values["seconds"],
        p50_ms=values["p50_ms"],
        p99_ms=values["p99_ms"],
        errors=values["refused"] + values["broken"],
    )


@contextmanager
def _bodies(server: Server, texts: Sequence[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bodies"
        lines = (json.dumps(server.contender.body(text)) + "\n" for text in texts)
        path.write_text("".join(lines), encoding="utf-8")
        yield path


def _wrk(
    server: Server, bodies: Path, begin: int, clients: int, seconds: int
) -> subprocess.Popen[bytes]:
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk, which makes the load, is missing: apt-get install wrk")
    return subprocess.Popen(
        [
            wrk, "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s",
            "--timeout", "300s", "--script", str(SCRIPT), server.url,
            "--", str(bodies), str(begin),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
