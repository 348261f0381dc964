"""Progress as one line now and then, which CloudWatch shows as it is meant."""

from __future__ import annotations

import logging
import time

from textmodel.classifier import Progress

__all__ = ["progress"]

INTERVAL = 10.0
"""Seconds between two lines."""


def progress(log: logging.Logger, what: str) -> Progress:
    """Return a callback that logs `what` every few seconds, with rate and remaining time."""
    start = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < INTERVAL:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / rate
        log.info("%s: %d of %d (%.0f a second, %.0f s left)", what, done, total, rate, left)

    return report
