"""What a worker process leaves to the one that replaces it."""

from __future__ import annotations

import json
import os

__all__ = ["Memo"]


class Memo:
    """Names and directories of models, in memory that all workers have in common.

    It is made before the first one is forked. A worker that is lost, as by the kernel for want of
    memory, takes its models with it; the platform still believes that they are loaded.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("models")

    def write(self, models: dict[str, str]) -> None:
        """Replace what was noted."""
        text = json.dumps(models).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def read(self) -> dict[str, str]:
        """Return what was noted last."""
        text = os.pread(self._file, os.fstat(self._file).st_size, 0)
        models: dict[str, str] = json.loads(text) if text else {}
        return models
