"""Pipe mode: a fifo an epoch, into which the objects of a channel are written one after another.

Source: Amazon SageMaker developer guide, "How Amazon SageMaker provides training information".
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Feeder"]

LOOK = 0.02
"""Seconds between two looks for a reader."""


class Feeder:
    """Feeds `<channel>_0`, then `<channel>_1` and so on, each as soon as somebody reads it.

    A fifo is made when the one before it was read, or closed by its reader.
    """

    def __init__(self, channel: Path, sources: Sequence[Path]) -> None:
        self._channel, self._sources = channel, sources
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed, name=f"pipe {channel}", daemon=True)
        _make(self._fifo(0))  # is there when the container starts
        self._thread.start()

    def close(self) -> None:
        """End, once the readers have."""
        self._ended.set()
        self._thread.join()

    def _fifo(self, epoch: int) -> Path:
        return self._channel.with_name(f"{self._channel.name}_{epoch}")

    def _feed(self) -> None:
        epoch = 0
        while (descriptor := self._open(self._fifo(epoch))) is not None:
            try:
                with open(descriptor, "wb") as fifo:  # noqa: PTH123
                    for source in self._sources:
                        with source.open("rb") as file:
                            shutil.copyfileobj(file, fifo)
            except BrokenPipeError:
                pass  # closed early, as a reader may
            epoch += 1
            _make(self._fifo(epoch))

    def _open(self, path: Path) -> int | None:
        """Open a fifo once it has a reader; return None at the end."""
        while not self._ended.wait(LOOK):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            else:
                os.set_blocking(descriptor, True)
                return descriptor
        return None


def _make(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o666)
