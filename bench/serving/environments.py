"""An environment of its own for each contender, made on first use from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.serving import CACHE, ROOT, Unavailable

__all__ = ["TORCH", "environment"]

TORCH = f"torch=={version('torch')}"
"""The same for all, and the same as ours."""


def environment(name: str, packages: Sequence[str]) -> Path:
    """Return the `bin` directory of an environment that holds just these packages.

    Raises:
        Unavailable: they cannot be installed.
    """
    directory = CACHE / "environments" / name
    stamp = directory / "packages.txt"
    wanted = "\n".join(packages) + "\n"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {name}: {', '.join(packages)}", file=sys.stderr, flush=True)
        python = directory / "bin/python"
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(directory))
        _uv("pip", "install", "--quiet", "--python", str(python), *packages)
        stamp.write_text(wanted, encoding="utf-8")
    return directory / "bin"


def _uv(*arguments: str) -> None:
    # The CPU build of torch comes from where pip is told to find it, or from `make wheelhouse`.
    links = [*os.environ.get("PIP_FIND_LINKS", "").split(), str(ROOT / "docker/wheelhouse")]
    variables = {"UV_FIND_LINKS": ",".join(links)} | os.environ
    command = [str(Path(sys.executable).parent / "uv"), *arguments]
    done = subprocess.run(command, env=variables, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Unavailable(f"its environment cannot be made: {done.stderr.strip()[-1500:]}")
