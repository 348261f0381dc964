"""What an image says of itself, and which files it holds, without running it."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from local_test.programs import Engine, EngineError

__all__ = ["BIND_TO_PORT", "MULTI_MODELS", "Image"]

BIND_TO_PORT = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
MULTI_MODELS = "com.amazonaws.sagemaker.capabilities.multi-models"
ABSENT = ("could not find", "could not be found", "no such")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Image:
    """An image on an engine."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine

    @cached_property
    def details(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self._engine.run("image", "inspect", self.name))
        return found[0]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.details["Config"]
        return config

    @property
    def entrypoint(self) -> list[str]:
        return list(self.config.get("Entrypoint") or [])

    @property
    def command(self) -> list[str]:
        return list(self.config.get("Cmd") or [])

    def has_label(self, name: str) -> bool:
        labels: dict[str, str] = self.config.get("Labels") or {}
        return labels.get(name, "").lower() == "true"

    @property
    def search_path(self) -> list[str]:
        pairs = (variable.partition("=") for variable in self.config.get("Env") or [])
        found = {name: value for name, _, value in pairs}
        return [directory for directory in found.get("PATH", DEFAULT_PATH).split(":") if directory]

    def program(self, name: str) -> str | None:
        """Return the path of a program as a shell finds it; None without one."""
        paths = (str(PurePosixPath(directory, name)) for directory in self.search_path)
        return next((path for path in paths if self.holds(path)), None)

    def holds(self, path: str) -> bool:
        """Return whether the image has a file, directory or link there."""
        with self.copy(path) as copied:
            return copied is not None

    @contextmanager
    def copy(self, path: str) -> Iterator[Path | None]:
        """Yield where a copy of a file or directory lies for now; None if there is none."""
        with tempfile.TemporaryDirectory(prefix="conform-") as directory:
            target = Path(directory, "copy")
            try:
                self._engine.run("cp", f"{self._container}:{path}", str(target))
            except EngineError as error:
                if not any(words in str(error).lower() for words in ABSENT):
                    raise
                yield None
            else:
                yield target if os.path.lexists(target) else None

    @cached_property
    def _container(self) -> str:
        name = f"conform-{uuid.uuid4().hex[:12]}"
        # It is never started, but an image without CMD wants some command.
        self._engine.run("create", "--name", name, self.name, "conform")
        return name

    def close(self) -> None:
        if "_container" in self.__dict__:
            self._engine.run("rm", self._container, check=False)
