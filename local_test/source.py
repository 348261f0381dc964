"""A user's own code, sent as version 2 of the SageMaker SDK sends it to a job without a network."""

from __future__ import annotations

from pathlib import Path

from local_test.arguments import ArgumentError
from local_test.packing import merge, pack

__all__ = ["CHANNEL", "submit"]

CHANNEL = "code"
ARCHIVE = "sourcedir.tar.gz"
LEFT_OUT = {".git", "__pycache__"}


def submit(
    source: Path, entry_point: str, scratch: Path, base: Path
) -> tuple[Path, dict[str, str]]:
    """Pack a directory.

    Args:
        scratch: where the archive is written.
        base: what the job sees as /opt/ml.

    Returns:
        The path for the channel CHANNEL, and the hyperparameters that lead to the program.

    Raises:
        ArgumentError: the directory has no such program.
    """
    if not source.is_dir():
        raise ArgumentError(f'--source "{source}" is no directory')
    if not (source / entry_point).exists() and not (source / "setup.py").is_file():
        raise ArgumentError(
            f"there is no {entry_point} in {source}; name the file to start: --entry-point FILE"
        )
    members = {name: path for name, path in merge([source]).items()
               if not LEFT_OUT & set(Path(name).parts)}  # fmt: skip
    pack(members, scratch / ARCHIVE)
    return scratch / ARCHIVE, {
        "sagemaker_program": entry_point,
        "sagemaker_submit_directory": str(base / "input/data" / CHANNEL / ARCHIVE),
    }
