"""Pipe mode: the fifos through which the platform sends a channel, epoch by epoch.

Source: Amazon SageMaker developer guide, "How Amazon SageMaker provides training information",
section "Pipe mode".
"""

from __future__ import annotations

import io
import logging
import os
import select
import time
from pathlib import Path

from train.errors import UserError
from train.progress import INTERVAL

__all__ = ["open_pipe"]

log = logging.getLogger(__name__)

PATIENCE = 15 * 60.0
"""Seconds to wait until a fifo is there and something is written to it."""


def open_pipe(path: Path) -> io.BufferedReader:
    """Open a fifo for reading, as soon as it exists and has a writer.

    Raises:
        UserError: that took more than PATIENCE seconds.
    """
    patience = _Patience(path)
    while not path.exists():
        patience.spend()
        time.sleep(0.05)
    # A blocking open would wait for a writer without ever saying so.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not poll.poll(1000 * min(INTERVAL, PATIENCE)):
            patience.spend()
        os.set_blocking(descriptor, True)
        return open(descriptor, "rb")  # noqa: PTH123
    except BaseException:
        os.close(descriptor)
        raise


class _Patience:
    """Tells now and then what is waited for, and ends the wait at last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.monotonic()
        self._next_line = 0.0

    def spend(self) -> None:
        waited = time.monotonic() - self._start
        state = "sends nothing yet" if self._path.exists() else "does not exist yet"
        if waited > PATIENCE:
            raise UserError(
                f"the pipe {self._path} {state}, after {PATIENCE / 60:.0f} minutes; is there data "
                "below the channel's S3Uri? Input mode File or FastFile would tell"
            )
        if waited >= self._next_line:
            self._next_line = waited + INTERVAL
            log.info("waiting: the pipe %s %s", self._path, state)
