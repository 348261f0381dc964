"""The packages that the user's own code asks for: looked for, never installed."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from serve.errors import UserCodeError

__all__ = ["check_requirements"]

log = logging.getLogger(__name__)

FILE = "requirements.txt"


def check_requirements(directory: Path) -> None:
    """Check that `requirements.txt` of a directory is fulfilled by the image, or by `lib` in it.

    Raises:
        UserCodeError: it is not.
    """
    file = directory / FILE
    if not file.is_file():
        return
    text = re.sub(r"\\\r?\n", " ", file.read_text(encoding="utf-8-sig"))
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    lacking = [lack for line in lines if line if (lack := _lack(line, directory))]
    if lacking:
        raise UserCodeError(
            f"{FILE} asks for what this image does not have: {', '.join(lacking)}. Nothing is "
            "installed while serving. Either put it beside the code (pip install --target "
            f"code/lib --requirement code/{FILE}), or into an image of your own, or take the line "
            "away"
        )


def _lack(line: str, directory: Path) -> str:
    """Return what a line asks for and is not there; empty where it is, or only pip can tell."""
    if line.startswith("-"):
        return ""  # an option of pip
    try:
        requirement = Requirement(line.partition(" --")[0])  # before its hashes
    except InvalidRequirement:
        log.warning("%s: %r cannot be checked", FILE, line)
        return ""
    if requirement.marker and not requirement.marker.evaluate():
        return ""
    # Paths are searched in their order, and the program's own are not in sys.path yet.
    found = next(_installed(requirement.name, directory), None)
    if found is None:
        return str(requirement)
    if not requirement.specifier.contains(found.version, prereleases=True):
        return f"{requirement} (there is {found.version})"
    return ""


def _installed(name: str, directory: Path) -> Iterator[Distribution]:
    yield from distributions(name=name, path=[str(directory / "lib"), *sys.path])
