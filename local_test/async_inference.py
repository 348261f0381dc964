"""Asynchronous inference: requests wait in line, inputs and outputs lie in S3.

A directory stands in for S3: s3://BUCKET/KEY is the file BUCKET/KEY in it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from local_test.arguments import say
from local_test.exchange import TimedOut, Unanswered
from local_test.hosting import Endpoint

__all__ = ["AsyncInference", "Places", "StorageError", "path_of"]

CONCURRENT = 4
"""Requests that the program gets at once; the service chooses, if the endpoint does not say."""


class StorageError(Exception):
    """A location that there is not, or may not be; the message says why."""


@dataclass(frozen=True)
class Places:
    """Where the answer of a request will lie, or what tells that there is none."""

    output: str
    failure: str


@dataclass(frozen=True)
class _Request:
    headers: Mapping[str, str]
    body: bytes | Path
    places: Places
    timeout: float
    expires: float
    """On the monotonic clock."""


class AsyncInference:
    """The line of an asynchronous endpoint."""

    def __init__(self, endpoint: Endpoint, storage: Path, output: str) -> None:
        """Take requests.

        Args:
            storage: the directory that stands in for S3.
            output: the location under which all answers lie.

        Raises:
            StorageError: it is no location in S3.
        """
        path_of(storage, output)
        self._endpoint = endpoint
        self._storage = storage
        self._output = output.rstrip("/")
        self._workers = ThreadPoolExecutor(CONCURRENT, thread_name_prefix="async")

    def submit(
        self,
        headers: Mapping[str, str],
        source: str | bytes,
        timeout: float,
        ttl: float,
        extension: str = "",
        filename: str = "",
    ) -> Places:
        """Put a request into the line.

        Args:
            source: the location of its body, or the body.
            timeout: seconds of the invocation.
            ttl: seconds that it may wait in line.
            extension: of the output location.
            filename: of the output, instead of a random one.

        Raises:
            StorageError: a location is not in S3, or there is no input.
        """
        body = source if isinstance(source, bytes) else self._input(source)
        name = str(uuid.uuid4())
        prefix = "/".join(filter(None, (self._output, extension.strip("/"))))
        places = Places(f"{prefix}/{filename or f'{name}.out'}", f"{prefix}/{name}-error.out")
        path_of(self._storage, places.output)
        expires = time.monotonic() + ttl
        self._workers.submit(self._answer, _Request(headers, body, places, timeout, expires))
        return places

    def close(self) -> None:
        """Let what is being answered end, and forget the rest."""
        self._workers.shutdown(cancel_futures=True)

    def _input(self, location: str) -> Path:
        path = path_of(self._storage, location)
        if not path.is_file():
            raise StorageError(f"There is nothing at {location} (looked for {path}).")
        limit = self._endpoint.mode.payload
        if path.stat().st_size > limit:
            raise StorageError(f"{location} has more than the {limit} bytes that are allowed.")
        return path

    def _answer(self, request: _Request) -> None:
        fault, result = self._ask(request)
        location = request.places.failure if fault else request.places.output
        path = path_of(self._storage, location)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")  # who polls for the file finds a whole one
        part.write_bytes(result)
        part.rename(path)
        say(f"InvokeEndpointAsync: {fault or 'answered'}, see {path}")

    def _ask(self, request: _Request) -> tuple[str, bytes]:
        """Return what went wrong, in words, and what is to be stored."""
        if time.monotonic() > request.expires:
            fault = "the request expired in the line"
            return fault, json.dumps({"Message": fault}).encode()
        body = request.body if isinstance(request.body, bytes) else request.body.read_bytes()
        try:
            answer = self._endpoint.invoke(body, request.headers, request.timeout)
        except TimedOut:
            fault = f"no answer within {request.timeout:g} s"
        except Unanswered as error:
            fault = str(error)
        else:
            if 200 <= answer.status < 300:
                return "", answer.body
            return f"status {answer.status}", answer.body
        return fault, json.dumps({"Message": fault}).encode()


def path_of(storage: Path, location: str) -> Path:
    """Return the file or directory that stands in for a location in S3.

    Raises:
        StorageError: it is none.
    """
    bucket, _, key = location.removeprefix("s3://").partition("/")
    path = storage / bucket / key.strip("/")
    if not location.startswith("s3://") or not bucket or ".." in path.parts:
        raise StorageError(f'"{location}" is no location of the form s3://BUCKET/KEY')
    return path
