"""A program that serves a model, under the rules of SageMaker's hosting."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from local_test.exchange import Answer, Reply, Unanswered, ask, begin
from local_test.programs import (
    Container,
    Engine,
    EngineError,
    Mount,
    Process,
    Program,
    Surroundings,
)

__all__ = [
    "GRACE",
    "MODES",
    "PING_INTERVAL",
    "PING_LIMIT",
    "Endpoint",
    "HostingError",
    "Mode",
    "free_port",
    "host",
]

MB = 2**20
GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""
PING_LIMIT = 2.0
"""Seconds in which /ping has to be answered."""
PING_INTERVAL = 5.0
"""Seconds between two pings of a running endpoint, as logs of the service show them."""


@dataclass(frozen=True)
class Mode:
    """The limits of a way to host a model, from the developer guide and the API reference."""

    payload: int
    """Bytes that the body of a request may have, and of an answer."""
    invocation: float = 60
    """Seconds in which an invocation has to be answered."""
    stream: float = 480
    """Seconds that a streamed answer may take."""
    startup: float = 480
    """Seconds in which /ping has to answer 200 after the start."""
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


MODES = {
    "realtime": Mode(25 * MB),
    # It says only that "your container may not have permissions to write files".
    "serverless": Mode(4 * MB, startup=180, user="65534:65534"),
    "async": Mode(1024 * MB, invocation=900),
    "batch": Mode(100 * MB, invocation=600, environment={"SAGEMAKER_BATCH": "true"}),
}


class HostingError(EngineError):
    """The program does not become an endpoint; the message says why."""


class Endpoint:
    """A program that serves a model, asked within the limits of a mode."""

    def __init__(self, program: Program, mode: Mode) -> None:
        self.program = program
        self.mode = mode

    @cached_property
    def address(self) -> str:
        """Where the program itself can be asked, as http://HOST:PORT.

        Raises:
            EngineError: a container has no address, for it has not started or is gone.
        """
        return self.program.address

    def ping(self) -> str:
        """Return what is wrong with the answer to GET /ping, in words; empty if nothing is."""
        try:
            answer = ask(self.address, "GET", "/ping", PING_LIMIT)
        except (Unanswered, EngineError) as error:
            return str(error)
        return "" if answer.status == 200 else f"status {answer.status}"

    def wait_until_healthy(self, timeout: float | None = None) -> float:
        """Wait for the first /ping that is 200; return the seconds since the call.

        Args:
            timeout: seconds; the mode's if None.

        Raises:
            HostingError: the program ends, or the time is over.
        """
        started = time.monotonic()
        limit = self.mode.startup if timeout is None else timeout
        while fault := self.ping():
            if self.program.returncode is not None:
                raise HostingError(
                    f"the program ended with exit status {self.program.wait()} before /ping "
                    "answered 200, see its log"
                )
            if time.monotonic() - started > limit:
                raise HostingError(f"/ping did not answer 200 within {limit:g} s: {fault}")
            time.sleep(0.2)
        return time.monotonic() - started

    def invoke(
        self,
        body: bytes | Iterable[bytes],
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Send POST /invocations and return the answer, whatever its status.

        Raises:
            Unanswered, TimedOut: the mode's time limit is over, if no other is given.
        """
        limit = self.mode.invocation if timeout is None else timeout
        return ask(self.address, "POST", "/invocations", limit, body, headers)

    def begin(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send POST /invocations and return the answer while its body still comes.

        Raises:
            Unanswered, TimedOut
        """
        return begin(self.address, "POST", "/invocations", self.mode.invocation, body, headers)

    def stop(self) -> float:
        """Stop it as the platform does: SIGTERM, and SIGKILL 30 s later; return the seconds."""
        return self.program.stop(GRACE)


@contextmanager
def host(
    engine: Engine | None,
    image: str | None,
    model: Path | None,
    mode: Mode,
    environment: Mapping[str, str] | None = None,
    user: str = "",
    read_only: bool = True,
    listener: Callable[[str], None] | None = None,
) -> Iterator[Endpoint]:
    """Start a container, or the bare `serve` without an engine; it is gone afterwards.

    Args:
        model: the directory of the model, which the container cannot write to; or none at all.
        environment: the model's, on top of what the mode sets.
        user: the container's; that of the mode, else that of the image, if empty.
        read_only: whether the container can write nowhere but in /tmp.
        listener: is called with each line that the program says.
    """
    variables = {**mode.environment, **(environment or {})}
    with ExitStack() as stack:
        program: Program
        if engine and image:
            surroundings = Surroundings(
                environment=variables,
                mounts=[Mount(model, "/opt/ml/model", read_only=True)] if model else [],
                network=stack.enter_context(engine.network()),
                read_only=read_only,
                user=user or mode.user,
            )
            program = Container(engine, image, ["serve"], surroundings, listener)
        else:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="local-test-")))
            if model:
                (base / "model").symlink_to(model.resolve())
            surroundings = Surroundings(environment=variables, base=base)
            program = Process("serve", surroundings, listener, free_port())
        stack.callback(program.remove)
        yield Endpoint(program, mode)


def free_port() -> int:
    """Return the number of a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
