"""One HTTP request to a program, held to the platform's time limits."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

__all__ = ["ACCEPT_LIMIT", "Answer", "Reply", "TimedOut", "Unanswered", "ask", "begin"]

ACCEPT_LIMIT = 0.25
"""Seconds in which the program has to accept a connection."""

PART = 2**16


class Unanswered(Exception):
    """No whole answer came; the message says what happened instead."""


class TimedOut(Unanswered):
    """The answer was not there in time."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Names of headers are found in any spelling."""

    status: int
    headers: Message
    body: bytes


class Reply:
    """An answer whose status and headers are there, and whose body still comes."""

    def __init__(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        self._connection = connection
        self._socket = connection.sock  # the connection may forget it before the body is read
        self._response = connection.getresponse()
        self._deadline = deadline
        self.status = self._response.status
        self.headers: Message = self._response.headers

    def extend(self, seconds: float) -> None:
        """Allow the rest of the body so much more time."""
        self._deadline += seconds

    def parts(self) -> Iterator[bytes]:
        """Yield the body as it comes, and close the connection.

        Raises:
            Unanswered: it breaks off.
            TimedOut: it is not there in time.
        """
        missing = self._response.length  # None: it ends with a last chunk, or the connection
        try:
            while missing != 0:
                self._socket.settimeout(_left(self._deadline))
                part = self._response.read1(PART if missing is None else min(PART, missing))
                if not part:
                    break
                if missing is not None:
                    missing -= len(part)
                yield part
        except TimeoutError as error:
            raise TimedOut("the body was not there in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"the body broke off: {type(error).__name__}") from error
        finally:
            self.close()
        if missing:
            raise Unanswered(f"the body broke off, {missing} bytes are missing")

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def ask(
    address: str,
    method: str,
    path: str,
    timeout: float,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request and return the answer; the arguments are those of `begin`.

    Raises:
        Unanswered, TimedOut
    """
    reply = begin(address, method, path, timeout, body, headers)
    return Answer(reply.status, reply.headers, b"".join(reply.parts()))


def begin(
    address: str,
    method: str,
    path: str,
    timeout: float,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request and wait for the head of its answer.

    Args:
        address: http://HOST:PORT.
        timeout: seconds until the answer has to be there, its body included.
        body: bytes, or parts of them, which are sent in chunks without a Content-Length.

    Raises:
        Unanswered: the connection is refused, is not accepted within 250 ms, or breaks.
        TimedOut: nothing came in time.
    """
    deadline = time.monotonic() + timeout
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=ACCEPT_LIMIT)
    try:
        _connect(connection)
        connection.sock.settimeout(_left(deadline))
        _send(connection, method, path, body, headers or {})
        connection.sock.settimeout(_left(deadline))
        return Reply(connection, deadline)
    except TimeoutError as error:
        connection.close()
        raise TimedOut(f"no answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise Unanswered(f"the connection broke off: {type(error).__name__}") from error
    except Unanswered:
        connection.close()
        raise


def _connect(connection: http.client.HTTPConnection) -> None:
    try:
        connection.connect()
    except TimeoutError as error:
        raise Unanswered("the connection was not accepted within 250 ms") from error
    except OSError as error:
        raise Unanswered(f"no connection: {error.strerror}") from error


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes],
    headers: Mapping[str, str],
) -> None:
    chunked = not isinstance(body, bytes)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    elif body or method == "POST":
        connection.putheader("Content-Length", str(len(body)))  # type: ignore[arg-type]
    # It may answer before it has read everything, with 413, say.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.endheaders(body or None, encode_chunked=chunked)


def _left(deadline: float) -> float:
    """Return the seconds until a deadline.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
