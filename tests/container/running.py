"""How tests run containers, and wait for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

STRICT = ("--network=none", "--read-only", "--tmpfs=/tmp", "--user=65534:65534")
"""As the platform may run an image at its strictest."""


def wait_for(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI says that nothing may be missing."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (and REQUIRE_DOCKER=1)")
    pytest.skip(reason)
