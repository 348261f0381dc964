"""The packages that a user's code asks for and that the image does not have."""

from __future__ import annotations

import logging
import os
import re
import site
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from train.errors import Stopped, UserError
from train.processes import Command, Supervisor

__all__ = ["FILE", "WHEELS", "install", "missing"]

log = logging.getLogger(__name__)

FILE, WHEELS = "requirements.txt", "wheels"


def install(source: Path, package: bool, scratch: Path, supervisor: Supervisor) -> Path | None:
    """Install what `requirements.txt` names, and the user's code itself where it is a `package`.

    The image, or a developer's environment, stays as it is: what is missing in it goes below
    `scratch`.

    Returns:
        The directory for PYTHONPATH; None where the image has all of it.

    Raises:
        UserError: pip cannot install it.
    """
    file = source / FILE
    lacking = missing(file) if file.is_file() else []
    if not lacking and not package:
        if file.is_file():
            log.info("%s: the image has all of it", FILE)
        return None
    wheels = ["--no-index", f"--find-links={WHEELS}"] if (source / WHEELS).is_dir() else []
    arguments = [*wheels, *(["--requirement", FILE] if lacking else [])]
    if package:
        arguments.append(".")
        if not (source / "pyproject.toml").is_file():
            arguments.append("--no-build-isolation")  # setuptools is here, no need to fetch it
    log.info("installing %s", ", ".join([*lacking, *(["the source directory"] if package else [])]))
    python, packages = _make_layer(scratch / "packages")
    code = supervisor.run([_pip(python, arguments, source, scratch)])
    if supervisor.stopped_by:
        raise Stopped(supervisor.stopped_by)
    if code:
        raise UserError(_advice(lacking, bool(wheels)))
    return packages


def missing(file: Path) -> list[str]:
    """Return the lines of a requirements file that the installed packages do not fulfil.

    A line that only pip can judge counts as one of them: an option, an address, a directory.
    """
    text = re.sub(r"\\\r?\n", " ", file.read_text(encoding="utf-8-sig"))
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not _is_fulfilled(line)]


def _is_fulfilled(line: str) -> bool:
    try:
        requirement = Requirement(line.partition(" --")[0])  # before its hashes
    except InvalidRequirement:
        return False
    return _is_installed(requirement)


def _is_installed(requirement: Requirement, extra: str = "") -> bool:
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return True
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return False
    return (
        requirement.url is None
        and requirement.specifier.contains(found.version, prereleases=True)
        and all(
            _is_installed(Requirement(needed), extra)
            for extra in requirement.extras
            for needed in found.requires or ()
        )
    )


def _make_layer(directory: Path) -> tuple[Path, Path]:
    """Make an environment on top of this one, which pip will see and not change.

    `pip install --target` would fetch everything again that is installed already, and `--prefix`
    uninstall what it replaces.

    Returns:
        Its interpreter, and the directory of its packages.
    """
    venv.create(directory, symlinks=True)
    prefix = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", prefix))
    (packages / "below.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return directory / "bin" / Path(sys.executable).name, packages


def _pip(python: Path, arguments: list[str], source: Path, scratch: Path) -> Command:
    """Return pip's command, which imports nothing from the user's directory that it runs in."""
    cache = os.environ.get("SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY") or str(scratch / "pip")
    environment = {"PIP_CACHE_DIR": cache, "PIP_ROOT_USER_ACTION": "ignore"} | os.environ
    environment.pop("PYTHONPATH", None)
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    return Command(
        [str(python), "-P", "-m", "pip", "install", *options, *arguments], environment, source
    )


def _advice(lacking: list[str], wheels: bool) -> str:
    what = f"{FILE} asks for what the image does not have: {', '.join(lacking)}"
    if not lacking:
        what = "the source directory, a package with a setup.py, could not be installed"
    elif wheels:
        what += f", and the folder {WHEELS}/ does not have all of it"
    return (
        f"{what[:500]}. The log has what pip said. Either put it into the image "
        f"(docker/locks), or its wheels beside {FILE} (pip download --dest {WHEELS} "
        f"--requirement {FILE}), or let the job reach a package index (no network isolation, "
        "a subnet with a route to it)"
    )
