"""Checkpoints of several hosts, which share one place outside, and see no change of each other.

Source: CheckpointConfig of the CreateTrainingJob API: what is there is copied to every host before
it starts, and what a host writes or deletes is written and deleted there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from local_test.arguments import say

__all__ = ["Checkpoints"]

State = dict[str, tuple[int, int]]
"""Time and size of each file, by its relative name."""


class Checkpoints:
    """The hosts' directories, and the one that outlives them."""

    def __init__(self, store: Path, directories: Sequence[Path]) -> None:
        self._store, self._directories = store, directories
        self._restored: dict[Path, State] = {}

    def restore(self) -> None:
        """Copy what is kept to every host."""
        for directory in self._directories:
            shutil.copytree(self._store, directory, dirs_exist_ok=True)
            for parent, names, _ in os.walk(directory):
                for path in [Path(parent), *(Path(parent) / name for name in names)]:
                    path.chmod(0o777)  # for a container of any user
            self._restored[directory] = _state(directory)

    def collect(self) -> None:
        """Keep what the hosts wrote; of equal names the last one's, which is told."""
        written: set[str] = set()
        for directory in self._directories:
            before, now = self._restored[directory], _state(directory)
            for name in before.keys() - now.keys() - written:
                (self._store / name).unlink(missing_ok=True)
            for name in (name for name in now if now[name] != before.get(name)):
                if name in written:
                    say(f"checkpoint {name}: several hosts have written it; the last one's stays")
                written.add(name)
                (self._store / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(directory / name, self._store / name)


def _state(directory: Path) -> State:
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent) / name
            status = path.stat()
            relative = path.relative_to(directory).as_posix()
            found[relative] = (status.st_mtime_ns, status.st_size)
    return found
