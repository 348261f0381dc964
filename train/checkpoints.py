"""Progress that outlives its process: directories that count only once they are sealed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Checkpoints"]

log = logging.getLogger(__name__)

_SEAL = "sha256.json"
_PARTIAL = ".partial"


class Checkpoints:
    """The checkpoints of one job, `<name>-<number>`, in a directory that is the job's own.

    A job finds what an earlier attempt of the same job wrote, and nothing else: `identity` must
    differ where the input or a setting differs.
    """

    def __init__(self, root: Path, identity: str, enabled: bool = True) -> None:
        self.directory = root / identity
        self.enabled = enabled
        if not enabled:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.directory / _PARTIAL, ignore_errors=True)
        except OSError as error:
            self.enabled = False
            log.warning("no checkpoints: %s cannot be written: %s", root, error.strerror)
        else:
            if others := sorted(path.name for path in root.iterdir() if path.name != identity):
                log.info("checkpoints of other data or settings are not used: %s", *others[:5])

    @contextmanager
    def writing(self, name: str, number: int) -> Iterator[Path]:
        """Yield an empty directory that becomes the checkpoint `<name>-<number>` on success."""
        staging = self.directory / _PARTIAL
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
            self.adopt(staging, name, number)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def adopt(self, source: Path, name: str, number: int) -> None:
        """Seal a finished directory of the same file system, and move it to its place."""
        sums = {path: _sha256(source / path) for path in _files(source)}
        (source / _SEAL).write_text(json.dumps(sums), encoding="ascii")
        for path in (*(source / path for path in sums), source / _SEAL):
            _sync(path)
        target = self.path(name, number)
        shutil.rmtree(target, ignore_errors=True)
        source.replace(target)
        _sync(self.directory)

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of the intact checkpoints of this name, in order.

        What is damaged is named in the log, and left out.
        """
        found = []
        for path in self.directory.glob(f"{name}-*") if self.enabled else ():
            if fault := _fault(path):
                log.warning("checkpoint %s is skipped: %s", path.name, fault)
            else:
                found.append(int(path.name.rpartition("-")[2]))
        return sorted(found)

    def path(self, name: str, number: int) -> Path:
        return self.directory / f"{name}-{number:06d}"

    def remove(self, name: str, number: int) -> None:
        shutil.rmtree(self.path(name, number), ignore_errors=True)


def _fault(directory: Path) -> str:
    """Say why a checkpoint is not intact; empty where it is."""
    try:
        expected = json.loads((directory / _SEAL).read_text(encoding="ascii"))
        for path, checksum in expected.items():
            if _sha256(directory / path) != checksum:
                return f"{path} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def _files(directory: Path) -> list[str]:
    return [
        path.relative_to(directory).as_posix()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk hold a file or directory before the next step relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
