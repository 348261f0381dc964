"""A `train` or `serve` that runs: in a container, or bare, with what the platform would give it.

The engine is Docker's or Podman's, through its command-line client.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

__all__ = [
    "NOT_KEPT_BARE",
    "PORT",
    "Container",
    "Engine",
    "EngineError",
    "Mount",
    "Process",
    "Program",
    "Surroundings",
    "find_engine",
]

NOT_KEPT_BARE = (
    "network isolation", "a read-only root and model directory", "an unprivileged user",
    "limits of memory and cores", "the image's own entry point",
)  # fmt: skip
"""Rules that a bare program is not held to, for want of a container."""

PORT = 8080
"""Where a container listens."""
START = 30.0
"""Seconds that the engine has to start a container."""
ROOT = Path(__file__).resolve().parents[1]


class EngineError(Exception):
    """The engine is missing or refuses: the message says what to do."""


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine, and where a container sees it."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What the platform gives to a program, and what it keeps from it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    network: str = "none"
    """`none`, or the name of a network of `Engine.network`."""
    hostname: str = ""
    read_only: bool = False
    """Whether it can write nowhere but in its mounts and in /tmp."""
    user: str = ""
    """Such as 65534:65534; that of the image if empty."""
    entrypoint: str = ""
    """Instead of the image's own."""
    options: Sequence[str] = ()
    """Further ones of `docker run`."""
    base: Path | None = None
    """What stands in for /opt/ml where the program runs bare."""


class Program(Protocol):
    """Something that was started."""

    name: str
    lines: list[str]
    """What it said so far, on standard output and error, as they came."""

    @property
    def returncode(self) -> int | None:
        """The exit status, 128 + N after signal N; None while it runs."""

    @property
    def address(self) -> str:
        """Where it can be asked, as http://HOST:PORT."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its first process; nothing happens if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status.

        Raises:
            TimeoutError: it still runs after so many seconds.
        """

    def stop(self, grace: float) -> float:
        """Do as the platform does: SIGTERM, and SIGKILL `grace` seconds later.

        Returns:
            The seconds until it had ended.
        """

    def remove(self) -> None:
        """End it, if need be, and leave nothing behind."""


class _Running:
    """What containers and processes have in common: a client to wait for, and its output."""

    def __init__(self, name: str, command: Sequence[str], listener: Callable[[str], None] | None,
                 environment: Mapping[str, str] | None = None) -> None:  # fmt: skip
        self.name = name
        self.lines: list[str] = []
        self._listener = listener
        self._client = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        code = self._client.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, timeout: float | None = None) -> int:
        try:
            self._client.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} still runs after {timeout:g} s") from error
        self._reader.join(5)  # a process that it left behind may keep the pipe open
        code = self.returncode
        assert code is not None
        return code

    def send(self, number: signal.Signals) -> None:
        raise NotImplementedError

    def stop(self, grace: float) -> float:
        started = time.monotonic()
        self.send(signal.SIGTERM)
        try:
            self.wait(grace)
        except TimeoutError:
            self.send(signal.SIGKILL)
            self.wait()
        return time.monotonic() - started

    def _read(self) -> None:
        assert self._client.stdout
        with self._client.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                if self._listener:
                    self._listener(self.lines[-1])


class Process(_Running):
    """A program of this repository, run by this interpreter: `python -m train`, say."""

    def __init__(
        self,
        program: str,
        surroundings: Surroundings,
        listener: Callable[[str], None] | None = None,
        port: int = PORT,
    ) -> None:
        self._port = port
        bare = {
            "SAGEMAKER_BASE_DIR": str(surroundings.base),
            "OPTML_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }
        super().__init__(
            program,
            [sys.executable, "-m", program],
            listener,
            {**os.environ, **bare, **surroundings.environment},
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def send(self, number: signal.Signals) -> None:
        try:
            process = psutil.Process(self._client.pid)
            killed = process.children(recursive=True) if number == signal.SIGKILL else []
            self._client.send_signal(number)
            for child in killed:  # a container takes all its processes with it
                child.kill()
        except psutil.NoSuchProcess:
            pass

    def remove(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()
        with suppress(ProcessLookupError):  # as a container takes all its processes with it
            os.killpg(self._client.pid, signal.SIGKILL)


class Container(_Running):
    """A container, in the foreground of the engine's client."""

    def __init__(
        self,
        engine: Engine,
        image: str,
        arguments: Sequence[str],
        surroundings: Surroundings,
        listener: Callable[[str], None] | None = None,
        name: str = "",
    ) -> None:
        self._engine = engine
        name = name or f"local-test-{uuid.uuid4().hex[:12]}"
        options = ["--name", name, "--network", surroundings.network]
        options += [f"--env={key}={value}" for key, value in surroundings.environment.items()]
        for mount in surroundings.mounts:
            mode = "ro" if mount.read_only else "rw"
            options += ["--volume", f"{mount.source.resolve()}:{mount.target}:{mode}"]
        if surroundings.hostname:
            options += ["--hostname", surroundings.hostname]
            if surroundings.network == "none":
                options += ["--add-host", f"{surroundings.hostname}:127.0.0.1"]
            else:
                options += ["--network-alias", surroundings.hostname]
        if surroundings.read_only:
            options += ["--read-only", "--tmpfs", "/tmp:exec"]
        if surroundings.user:
            options += ["--user", surroundings.user]
        if surroundings.entrypoint:
            options += ["--entrypoint", surroundings.entrypoint]
        command = [engine.client, "run", *options, *surroundings.options, image, *arguments]
        super().__init__(name, command, listener)

    @property
    def address(self) -> str:
        """The container's own, which a Linux host reaches on any network of its engine.

        Raises:
            EngineError: it has none.
        """
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        found = self._engine.run("inspect", "--format", form, self.name, check=False).strip()
        if not found:
            raise EngineError(f"the container {self.name} has no address")
        return f"http://{found}:{PORT}"

    def send(self, number: signal.Signals) -> None:
        deadline = time.monotonic() + START
        while self.returncode is None:  # there may be a client, and no container yet
            try:
                self._engine.run("kill", f"--signal={number.name}", self.name)
                return
            except EngineError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def remove(self) -> None:
        self._engine.run("rm", "--force", "--volumes", self.name, check=False)
        self.wait()


@dataclass(frozen=True)
class Engine:
    """Docker or Podman, by the path of its client."""

    client: str

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run one command of the client; return its standard output.

        Raises:
            EngineError: it failed, and `check` was asked for.
        """
        done = subprocess.run([self.client, *arguments], capture_output=True, text=True)
        if check and done.returncode:
            told = done.stderr.strip() or f"exit status {done.returncode}"
            raise EngineError(f"{Path(self.client).name} {' '.join(arguments[:2])}: {told}")
        return done.stdout

    def require(self, image: str) -> None:
        """Raise EngineError where this machine does not have the image."""
        if self.run("image", "inspect", image, check=False).strip() in ("", "[]"):
            raise EngineError(f"there is no image {image} on this machine; build or pull it first")

    @contextmanager
    def network(self, internal: bool = True) -> Iterator[str]:
        """Yield the name of a network whose containers reach each other, and nothing else.

        The world is reached too, if it is not `internal`.
        """
        name = f"local-test-{uuid.uuid4().hex[:12]}"
        self.run("network", "create", *(["--internal"] if internal else []), name)
        try:
            yield name
        finally:
            self.run("network", "rm", name, check=False)


def find_engine() -> Engine | None:
    """Return the engine that answers: Docker's, else Podman's; None without one."""
    for name in ("docker", "podman"):
        client = shutil.which(name)
        if client:
            done = subprocess.run([client, "version"], capture_output=True)
            if not done.returncode:
                return Engine(client)
    return None
