"""Whether another model fits into memory, and whether memory was what an error is about."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from serve.errors import causes

__all__ = ["Appetite", "forget_frames", "is_shortage", "size"]

MARGIN = 64 * 2**20
"""Bytes that stay free for the requests that are answered meanwhile."""
HIGHEST_FACTOR = 4.0
"""What a model is expected to take at most, in sizes of its files: some read none of them."""

_SHORTAGES = (
    # what C++, OpenVINO, Python, CUDA and the kernel call it
    "bad_alloc",
    "out of memory",
    "can't alloc",
    "cannot allocate",
    "can not allocate",
    "failed to allocate",
    "can't start new thread",
    "resource temporarily unavailable",
)


class Appetite:
    """What a model will take in memory, judged by its files and by what earlier ones took."""

    def __init__(self) -> None:
        self._files = self._taken = 0

    def of(self, directory: Path) -> int:
        """Return the bytes that must be free before the model in a directory is loaded."""
        factor = self._taken / self._files if self._files else 1.0
        return MARGIN + int(size(directory) * min(max(factor, 1.0), HIGHEST_FACTOR))

    def learn(self, directory: Path, taken: int) -> None:
        """Note the bytes that loading a model took."""
        self._files += size(directory)
        self._taken += max(taken, 0)


def forget_frames(error: BaseException) -> None:
    """Release what the functions that an error ended still hold."""
    for cause in causes(error):
        traceback.clear_frames(cause.__traceback__)


def is_shortage(error: BaseException) -> bool:
    """Return whether memory, or another resource of the system, was lacking."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno in (errno.ENOMEM, errno.EAGAIN))
        or (
            isinstance(cause, RuntimeError)
            and any(words in str(cause).lower() for words in _SHORTAGES)
        )
        for cause in causes(error)
    )


def size(directory: Path) -> int:
    """Return the bytes of all files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
