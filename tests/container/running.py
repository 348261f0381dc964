"""How tests run containers, and wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable

STRICT = ("--network=none", "--read-only", "--tmpfs=/tmp", "--user=65534:65534")
"""As the platform may run an image at its strictest."""


def wait_for(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)
