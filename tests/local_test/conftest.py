from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from local_test.hosting import Endpoint, Mode, free_port
from local_test.programs import Process, Surroundings

MB = 2**20
Serve = Callable[..., Endpoint]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Yield a function that starts tests/local_test/tiny_server.py with variables of its own."""
    with ExitStack() as stack:

        def start(mode: Mode | None = None, healthy: bool = True, **environment: str) -> Endpoint:
            surroundings = Surroundings(environment={**(mode or QUICK).environment, **environment})
            program = Process("tests.local_test.tiny_server", surroundings, port=free_port())
            stack.callback(program.remove)
            endpoint = Endpoint(program, mode or QUICK)
            if healthy:
                endpoint.wait_until_healthy()
            return endpoint

        yield start


QUICK = Mode(MB, invocation=30, startup=60)
"""Limits that a test can reach, and a busy machine keeps."""
