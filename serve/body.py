"""The body of a request, read as it comes. What goes wrong on the way is told like other errors."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from gunicorn.http.errors import ParseException

from serve.errors import BadRequest, Stalled, TooLarge

__all__ = ["Body"]


GRACE = 60.0
"""Seconds for which a body may come as slowly as it will."""
SLOWEST = 1000
"""Bytes a second, on average, from then on: a thread waits for each body."""


class Body(io.RawIOBase):
    """A body of at most `limit` bytes, with or without a Content-Length."""

    def __init__(self, environ: Mapping[str, Any], limit: int) -> None:
        """Take the body of a WSGI request.

        Raises:
            TooLarge: its Content-Length is above the limit.
        """
        self._stream: BinaryIO = environ["wsgi.input"]
        self._limit = limit
        self._length = _length(environ)
        self._count = 0
        self._began = time.monotonic()
        if self._length is not None and self._length > limit:
            raise self._too_large()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on.

        Raises:
            TooLarge: the body has no Content-Length and is above the limit.
            BadRequest: it ends before it is whole, or its chunks are none.
            Stalled: the client sends nothing any more, or next to nothing.
        """
        left = len(buffer) if self._length is None else self._length - self._count
        try:
            data = self._stream.read(min(left, len(buffer)))
        except BlockingIOError:  # its time to wait is over, see Worker
            raise Stalled("the rest of the body did not come") from None
        except OSError:
            raise BadRequest("the body ended before its last chunk") from None
        except ParseException as error:
            raise BadRequest(f"the body is not in chunks, as it says: {error}") from None
        self._count += len(data)
        waited = time.monotonic() - self._began
        if waited > GRACE and self._count < waited * SLOWEST:
            raise Stalled(f"the body came too slowly: {self._count} bytes in {waited:.0f} s")
        if self._count > self._limit:
            raise self._too_large()
        if left and not data and self._length is not None:
            raise BadRequest(
                f"the body ended after {self._count} bytes; Content-Length says {self._length}"
            )
        buffer[: len(data)] = data
        return len(data)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._limit / 2**20:g} MB; send fewer texts at once, or "
            "raise SAGEMAKER_MAX_PAYLOAD_IN_MB"
        )


def _length(environ: Mapping[str, Any]) -> int | None:
    """Return how many bytes come; None where only their end will tell."""
    if environ.get("CONTENT_LENGTH"):
        return int(environ["CONTENT_LENGTH"])
    return None if environ.get("wsgi.input_terminated") else 0
