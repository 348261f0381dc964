"""How a job starts the program of one host: in a container of the image, or bare."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from local_test.programs import Container, Engine, Process, Program, Surroundings

__all__ = ["CHECKPOINTS", "Bare", "Contained", "Launcher"]

CHECKPOINTS = "/opt/ml/checkpoints"

Listener = Callable[[str], None]
"""Called with each line of a program's output."""


class Launcher(Protocol):
    """Starts programs, and makes what they wrote this user's own."""

    def start(self, surroundings: Surroundings, listener: Listener) -> Program: ...

    def reclaim(self, directories: Sequence[Path]) -> None: ...


@dataclass(frozen=True)
class Contained:
    """`docker run IMAGE train`, or with what replaces the image's entry point and `train`."""

    engine: Engine
    image: str
    entrypoint: Sequence[str] = ()
    """ContainerEntrypoint."""
    arguments: Sequence[str] = ()
    """ContainerArguments."""

    def start(self, surroundings: Surroundings, listener: Listener) -> Program:
        program, *first = self.entrypoint or [""]
        default = [] if self.entrypoint else ["train"]
        return Container(
            self.engine,
            self.image,
            [*first, *(self.arguments or default)],
            replace(surroundings, entrypoint=program),
            listener,
        )

    def reclaim(self, directories: Sequence[Path]) -> None:
        """Change the owner of files that the container's root wrote, with the image's `chown`.

        Where the image has none they stay, and what cannot be done with them says so.
        """
        owner = f"{os.getuid()}:{os.getgid()}"
        for directory in filter(_has_foreign, directories):
            mount = ("--volume", f"{directory.resolve()}:/opt/ml")
            command = ("--user=0:0", "--entrypoint=chown", self.image, "-R", owner, "/opt/ml")
            self.engine.run("run", "--rm", "--network=none", *mount, *command, check=False)


@dataclass(frozen=True)
class Bare:
    """A program of this repository, which finds the tree by SAGEMAKER_BASE_DIR."""

    program: str = "train"

    def start(self, surroundings: Surroundings, listener: Listener) -> Program:
        for mount in surroundings.mounts:
            place = surroundings.base / "checkpoints" if surroundings.base else mount.source
            if mount.target == CHECKPOINTS and mount.source.resolve() != place.resolve():
                place.rmdir()
                place.symlink_to(mount.source.resolve())
        return Process(self.program, surroundings, listener)

    def reclaim(self, directories: Sequence[Path]) -> None:
        """Do nothing: the program ran as this user."""


def _has_foreign(directory: Path) -> bool:
    return any(
        path.lstat().st_uid != os.getuid()
        for parent, directories, names in os.walk(directory)
        for path in (Path(parent) / name for name in [*directories, *names])
    )
