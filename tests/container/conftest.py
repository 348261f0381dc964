"""What every test with real containers needs: a Docker client that is known to work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.container.running import containers, missing


@pytest.fixture(scope="session")
def search_path() -> str:
    """Return a PATH on which the programs of this Python environment come first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="session")
def program(search_path: str) -> Callable[[str], str]:
    """Return a function from a program's name to its path, which skips where there is none."""

    def find(name: str) -> str:
        return shutil.which(name, path=search_path) or missing(f"{name} is not installed")

    return find


@pytest.fixture(scope="session")
def docker(program: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return `docker(*arguments, check=True)`, which runs the client and captures its output."""
    client = program("docker")

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([client, *arguments], capture_output=True, text=True)
        if check and done.returncode:
            pytest.fail(f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done

    info = run("info", check=False)
    if info.returncode:
        missing(f"no Docker engine answers: {info.stderr.strip()}")
    return run


@pytest.fixture(scope="session")
def image(docker: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str], str]:
    """Return a function from train, serve or both to that CPU image, which skips if not built."""
    prefix = os.environ.get("OPTML_IMAGE_PREFIX", "optml")

    def find(target: str) -> str:
        name = f"{prefix}-{target}-cpu:test"
        if docker("image", "inspect", name, check=False).returncode:
            missing(f"{name} is not built (build_and_push.sh --no-push --tag test)")
        return name

    return find


@pytest.fixture
def start(
    docker: Callable[..., subprocess.CompletedProcess[str]],
) -> Iterator[Callable[..., str]]:
    """Yield a function that starts a container in the background and returns its name."""
    with containers(docker) as run:
        yield run
