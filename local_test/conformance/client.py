"""Requests that are not all well-behaved, and what comes back."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from local_test.hosting import MODES

__all__ = ["INVOCATION_SECONDS", "Answer", "Half", "ask", "in_pieces"]

INVOCATION_SECONDS = MODES["realtime"].invocation
PIECE = 1 << 16


@dataclass(frozen=True)
class Answer:
    """An answer, or why there is none."""

    status: int
    """0 where nothing answered."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""
    seconds: float = 0.0
    error: str = ""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def __str__(self) -> str:
        if not self.status:
            return f"no answer ({self.error})"
        told = " ".join(self.text.split())
        return f"{self.status} {told[:120]}{'…' if len(told) > 120 else ''}".strip()


def ask(
    place: tuple[str, int],
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = INVOCATION_SECONDS,
) -> Answer:
    """Send a request to (host, port); an iterator of bytes is sent in chunks, without a length."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(*place, timeout=timeout)
    try:
        # Refused before all of it was sent: the answer may be there.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers or {}))
        return _read(connection, started)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, seconds=time.monotonic() - started, error=_words(error))
    finally:
        connection.close()


def in_pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


class Half:
    """A request of which the second half of the body is still to come."""

    def __init__(
        self, place: tuple[str, int], path: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self._connection = http.client.HTTPConnection(*place, timeout=INVOCATION_SECONDS)
        self._rest = body[len(body) // 2 :]
        self._connection.putrequest("POST", path)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body[: len(body) // 2])

    def finish(self) -> Answer:
        """Send what is missing, and return the answer."""
        started = time.monotonic()
        try:
            self._connection.send(self._rest)
            return _read(self._connection, started)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, seconds=time.monotonic() - started, error=_words(error))
        finally:
            self._connection.close()

    def give_up(self) -> None:
        self._connection.close()


def _read(connection: http.client.HTTPConnection, started: float) -> Answer:
    response = connection.getresponse()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, body, headers, time.monotonic() - started)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
