"""What a worker process leaves to the one that replaces it."""

from __future__ import annotations

import json
import os
import tempfile

__all__ = ["Memo"]


class Memo:
    """Names and directories of models, in a file without a name that ends with the server.

    It is made before the worker is forked. A worker that is lost, as by the kernel for want of
    memory, takes its models with it; the platform still believes that they are loaded.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(dir="/tmp")  # noqa: SIM115, open as long as the server

    def write(self, models: dict[str, str]) -> None:
        """Replace what was noted."""
        text = json.dumps(models).encode()
        number = self._file.fileno()
        os.pwrite(number, text, 0)
        os.ftruncate(number, len(text))

    def read(self) -> dict[str, str]:
        """Return what was noted last."""
        number = self._file.fileno()
        text = os.pread(number, os.fstat(number).st_size, 0)
        models: dict[str, str] = json.loads(text) if text else {}
        return models
