"""model.tar.gz and output.tar.gz: the files of all hosts, at the root of one archive."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_test.arguments import say
from local_test.programs import EngineError

__all__ = ["merge", "pack"]

TIME = 315532800
"""1980, for every file: archives of equal files are equal."""


def merge(directories: Sequence[Path]) -> dict[str, Path]:
    """Return what is in several directories, by relative name; of equal names the last one counts.

    Such names are told: on the service one host's file is lost.
    """
    found: dict[str, Path] = {}
    for directory in directories:
        for parent, subdirectories, names in os.walk(directory, onerror=_raise):
            for name in [*subdirectories, *names]:
                path = Path(parent) / name
                relative = path.relative_to(directory).as_posix()
                if relative in found and not path.is_dir():
                    say(f"{relative}: several hosts have written it, and only the last one's stays")
                found[relative] = path
    return dict(sorted(found.items()))


def pack(members: Mapping[str, Path], archive: Path) -> None:
    """Write files by their names in the archive, without a leading `./`.

    Raises:
        EngineError: a container has written files that this user cannot read.
    """
    try:
        with (
            archive.open("wb") as raw,
            gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            for name, path in members.items():
                _add(tar, name, path)
    except PermissionError as error:
        archive.unlink(missing_ok=True)
        _raise(error)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    if path.is_symlink():
        say(f"{name} is a symbolic link, which an archive for hosting should not have")
    member = tar.gettarinfo(path, name)
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = TIME
    if member.isreg():
        with path.open("rb") as file:
            tar.addfile(member, file)
    else:
        tar.addfile(member)


def _raise(error: OSError) -> None:
    raise EngineError(
        f"{error.strerror}: {error.filename}. A container, which runs as root, has written it; "
        f'type: sudo chown -R "$USER" {Path(error.filename).parent}'
    ) from error
