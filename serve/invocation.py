"""What a server asks of a model, and what a model of a server: bodies, types, time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from serve.errors import ClientGone, TooLate
from serve.settings import Settings

__all__ = ["ARRIVED", "PATIENCE", "Clock", "Invocation", "Reply", "Servable"]

PATIENCE = 0.5
"""Seconds between two looks whether a client still waits."""

ARRIVED: ContextVar[float] = ContextVar("arrived")
"""When the request of this thread came, by `time.monotonic`: it may have waited for the thread."""


@dataclass(frozen=True)
class Invocation:
    """One request to a model."""

    body: BinaryIO
    content_type: str | None
    accept: str
    """The header as it came; empty where there is none."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """The answer to an invocation."""

    parts: Iterable[bytes]
    """The body, made while it is read."""
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Clock:
    """How long a request may take, whether its client is still there, and where its time went."""

    deadline: float = math.inf
    """By `time.monotonic`."""
    gone: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(
        default_factory=lambda: {"tokenize": 0.0, "queue": 0.0, "model": 0.0}
    )

    def look(self) -> None:
        """Look whether somebody still waits for the answer.

        Raises:
            ClientGone: the client has closed the connection.
            TooLate: the time to answer in has passed.
        """
        if self.gone():
            raise ClientGone("the client has closed the connection")
        if time.monotonic() > self.deadline:
            raise TooLate("the answer was not ready in time")


class Servable(Protocol):
    """A model that can be loaded, asked and unloaded. Thread-safe once it is loaded."""

    @property
    def fault(self) -> str:
        """Why it cannot be asked now; empty when it can."""
        ...

    def load(self, directory: Path, settings: Settings) -> None:
        """Load the model and make a first real prediction.

        Raises:
            ArtifactError: the directory cannot be used.
            UserCodeError: the user's own code fails.
        """
        ...

    def unload(self) -> None:
        """Release the model; what still waits for it fails."""
        ...

    def invoke(self, invocation: Invocation, clock: Clock) -> Reply:
        """Answer a request.

        Raises:
            RequestError: it is not answered; also while the reply's parts are read.
        """
        ...
