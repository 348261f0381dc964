"""Model data as the service unpacks it: what model.tar.gz holds is what /opt/ml/model shows."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from local_test.arguments import ArgumentError, say

__all__ = ["model_directory", "unpack"]


@contextmanager
def model_directory(path: Path) -> Iterator[Path]:
    """Yield a directory as it is, or one with what a model.tar.gz holds, for as long.

    Raises:
        ArgumentError: it is neither, or the service would not take it.
    """
    if path.is_dir():
        yield path.resolve()
        return
    if not path.is_file():
        raise ArgumentError(f"there is no model at {path}; allowed: a model.tar.gz or a directory")
    with tempfile.TemporaryDirectory(prefix="local-test-model-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the container's user may be anyone
        unpack(path, directory)
        yield directory


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a model.tar.gz into a directory.

    Raises:
        ArgumentError: it is no gzipped tar file, or holds what a model may not: links, devices,
            or names that lead out of the directory.
    """
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as members:
            files = []
            for member in members:
                _check(member, archive)
                members.extract(member, directory, filter="data")
                if member.isfile():
                    files.append(PurePosixPath(member.name))
            while stream.read(2**20):  # to its checksum at the end
                pass
    except (tarfile.ReadError, EOFError, zlib.error, OSError) as error:
        raise ArgumentError(f"{archive} is no whole gzipped tar file: {error}") from error
    _warn_of_a_leading_directory(files)


def _check(member: tarfile.TarInfo, archive: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ArgumentError(f'{archive} has "{name}", which leads out of /opt/ml/model')
    if member.issym() or member.islnk():
        raise ArgumentError(
            f'{archive} has the link "{name}" to "{member.linkname}"; a model archive may not have '
            "links: pack the file itself (tar --dereference --hard-dereference)"
        )
    if not (member.isfile() or member.isdir()):
        raise ArgumentError(f'{archive} has "{name}", which is neither a file nor a directory')


def _warn_of_a_leading_directory(files: list[PurePosixPath]) -> None:
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    if len(tops) == 1 and not tops & {"", "code"}:
        (top,) = tops
        say(
            f"all files of the archive lie in its directory {top}: the program finds them in "
            f"/opt/ml/model/{top}. To have them at the root: tar -C {top} -czf model.tar.gz ."
        )
