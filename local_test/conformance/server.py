"""A container that serves, from its start on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from local_test.conformance.client import INVOCATION_SECONDS, Answer, ask
from local_test.conformance.samples import Sample
from local_test.hosting import PING_LIMIT
from local_test.programs import EngineError, Program

__all__ = ["Server"]

SETTLE_SECONDS = 60.0
"""How long a server that is said to be healthy may need until it really answers."""


class Server:
    """A container that serves, and how it came up."""

    def __init__(self, program: Program, demands: frozenset[str], port: int) -> None:
        self.program = program
        self.demands = demands
        self.ready = False
        self.start_seconds = 0.0
        """Until the first ping with 200, or until that was given up."""
        self.first = Answer(0, error="it was never asked")
        """What the sample got right after that ping."""
        self.settled = self.first
        """What it got at last."""
        self._port = port
        self._host = ""

    @property
    def place(self) -> tuple[str, int]:
        if not self._host:
            self._host = urlsplit(self.program.address).hostname or ""
        return self._host, self._port

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = INVOCATION_SECONDS,
    ) -> Answer:
        return ask(self.place, method, path, body, headers, timeout)

    def ping(self) -> Answer:
        return self.ask("GET", "/ping", timeout=PING_LIMIT)

    def invoke(self, sample: Sample, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", "/invocations", sample.body, {**sample.headers, **(headers or {})})

    def come_up(self, limit: float, sample: Sample | None) -> None:
        """Wait until it is healthy, for `limit` seconds, and ask the sample at once."""
        started = time.monotonic()
        while not self.ready and time.monotonic() - started < limit:
            if self.program.returncode is not None:
                break
            self.ready = self._answers()
            if not self.ready:
                time.sleep(0.05)
        self.start_seconds = time.monotonic() - started
        if self.ready and sample:
            self.first = self.settled = self.invoke(sample)
            deadline = time.monotonic() + min(SETTLE_SECONDS, limit)
            while not 200 <= self.settled.status < 500 and time.monotonic() < deadline:
                time.sleep(0.2)
                self.settled = self.invoke(sample)

    def _answers(self) -> bool:
        try:
            return self.ping().status == 200
        except EngineError:  # it has no address yet, or no longer
            return False

    @property
    def alive(self) -> bool:
        """Whether it runs and accepts connections."""
        return self.program.returncode is None and self.ping().status > 0

    @property
    def last_words(self) -> str:
        words = [line for line in self.program.lines if line.strip()]
        return words[-1].strip()[:200] if words else "it said nothing"

    def __str__(self) -> str:
        if self.ready:
            return f"healthy after {self.start_seconds:.1f} s; the sample got {self.settled}"
        ended = self.program.returncode
        if ended is not None:
            return f"ended with status {ended} after {self.start_seconds:.1f} s: {self.last_words}"
        return f"not healthy after {self.start_seconds:.0f} s: {self.last_words}"

    def close(self) -> None:
        self.program.remove()
