"""Load from `wrk`: so many clients, each sending its next text when the last one is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.servers import Server

__all__ = ["Figures", "drive", "driving"]

SCRIPT = Path(__file__).with_name("requests.lua")
WARM_UP_S = 2


@dataclass(frozen=True)
class Figures:
    """What clients see."""

    per_s: float
    """Good answers a second."""
    p50_ms: float
    p99_ms: float
    errors: int
    """Answers other than 2xx, broken connections, and none within the limit."""


def drive(server: Server, texts: Sequence[str], clients: int, seconds: float) -> Figures:
    """Warm up, then measure."""
    with _bodies(server, texts) as file:
        _wrk(server, file, 0, clients, WARM_UP_S).communicate()
        output, _ = _wrk(server, file, len(texts) // 2, clients, seconds).communicate()
    values: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Figures(
        per_s=(values["requests"] - values["refused"]) / values["seconds"],
        p50_ms=values["p50_ms"],
        p99_ms=values["p99_ms"],
        errors=values["refused"] + values["broken"],
    )


@contextmanager
def driving(server: Server, texts: Sequence[str], clients: int, seconds: float) -> Iterator[None]:
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


@contextmanager
def _bodies(server: Server, texts: Sequence[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bodies"
        lines = (json.dumps(server.contender.body(text)) + "\n" for text in texts)
        path.write_text("".join(lines), encoding="utf-8")
        yield path


def _wrk(
    server: Server, bodies: Path, begin: int, clients: int, seconds: float
) -> subprocess.Popen[bytes]:
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk, which makes the load, is missing: apt-get install wrk")
    return subprocess.Popen(
        [
            wrk, "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:g}s",
            "--timeout", "300s", "--script", str(SCRIPT), server.url,
            "--", str(bodies), str(begin),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
