"""An image on trial: what is known of it, and what it runs, had when a rule first asks for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from local_test.arguments import ArgumentError
from local_test.conformance.image import Image
from local_test.conformance.jobs import Jobs
from local_test.conformance.rules import NotApplicable
from local_test.conformance.samples import DEFAULT, MESSAGES, Sample
from local_test.conformance.servers import Servers
from local_test.model_data import unpack
from local_test.programs import (
    PORT,
    Container,
    Engine,
    EngineError,
    Process,
    Program,
    Surroundings,
)

__all__ = ["Options", "Subject"]

ENGINE_FAILED = 125
"""The exit status of `docker run` and `podman run` where they start nothing."""
REFUSALS = ("docker: ", "error: ")


@dataclass(frozen=True)
class Options:
    """What the user tells of an image."""

    image: str
    """Where there is no engine, what the bare programs are called."""
    rules: frozenset[str] = frozenset()
    """Ids of the rules that are to be looked at."""
    train: bool = False
    serve: bool = False
    """Found out where neither is told."""
    model: Path | None = None
    data: Mapping[str, Path] = field(default_factory=lambda: {"train": MESSAGES})
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    stop_hyperparameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    sample: Sample = DEFAULT
    grace: float | None = None
    """Seconds from SIGTERM to SIGKILL; the platform's own if None: 120 for jobs, 30 for servers."""
    startup: float = 480.0
    max_runtime: float = 900.0
    memory: float = 6144.0
    """MB that a server may take."""


class Subject:
    """The image, its jobs and its servers; without an engine the bare programs."""

    def __init__(
        self, engine: Engine | None, options: Options, directory: Path, network: str
    ) -> None:
        self.options = options
        self.network = network
        """Of `Engine.network`: from it nothing outside is reached."""
        self._engine = engine
        self._directory = directory
        self._jobs = Jobs(self)
        self._servers = Servers(self)

    @property
    def bare(self) -> bool:
        """Whether the programs of this repository run without a container."""
        return self._engine is None

    @property
    def engine(self) -> Engine:
        assert self._engine, "rules that need an engine are not looked at without one"
        return self._engine

    @cached_property
    def image(self) -> Image:
        return Image(self.engine, self.options.image)

    def start(self, name: str, surroundings: Surroundings, port: int = PORT) -> Program:
        """Start `train` or `serve`; a bare one listens on the port that is given."""
        if self.bare:
            return Process(name, surroundings, port=port)
        return Container(self.engine, self.options.image, [name], surroundings)

    @cached_property
    def abilities(self) -> frozenset[str]:
        """`train`, `serve` or both.

        Raises:
            ArgumentError: that cannot be seen.
        """
        told = {"train": self.options.train, "serve": self.options.serve}
        if any(told.values()):
            return frozenset(name for name, is_told in told.items() if is_told)
        if self.bare:
            return frozenset(told)
        found = {name for name in told if self.image.program(name)}
        found |= {"train", "serve"} & set(self.image.command[:1])
        if self.image.entrypoint and "8080/tcp" in (self.image.config.get("ExposedPorts") or {}):
            found.add("serve")
        if not found:
            raise ArgumentError(
                f"it cannot be seen whether {self.options.image} trains or serves: there is no "
                "program train or serve on its PATH; say --train, --serve or both"
            )
        return frozenset(found)

    @property
    def jobs(self) -> Jobs:
        """The training jobs.

        Raises:
            NotApplicable: the image does not train.
        """
        if "train" not in self.abilities:
            raise NotApplicable("the image does not train")
        return self._jobs

    @property
    def servers(self) -> Servers:
        """The servers.

        Raises:
            NotApplicable: the image does not serve.
        """
        if "serve" not in self.abilities:
            raise NotApplicable("the image does not serve")
        return self._servers

    @cached_property
    def model(self) -> Path | None:
        """A directory with the model that was given, or else that a job made; readable by all.

        Raises:
            ArgumentError: an archive that was given is none that the service would unpack.
        """
        source = self.options.model
        if source is None:
            if "train" not in self.abilities or not self._jobs.trials.works:
                return None
            source = self._jobs.trials.best.tree / "model"
        target = self.new_directory("model") / "model"
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.mkdir()
            unpack(source, target)
        for parent, _, names in os.walk(target):
            Path(parent).chmod(0o755)
            for name in names:
                Path(parent, name).chmod(0o644)
        return target

    def new_directory(self, name: str) -> Path:
        """Return an empty directory that containers of any user may write to."""
        number = len(list(self._directory.iterdir()))
        directory = self._directory / f"{number}-{name}"
        directory.mkdir()
        directory.chmod(0o777)
        return directory

    def process_1(self, program: Program) -> str:
        """Return the command line of a container's first process, empty if it has ended."""
        if self.bare:
            return f"python -m {program.name}"
        listing = self.engine.run("top", program.name, "-eo", "pid,ppid,args", check=False)
        rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
        # Not the one with the lowest number: those of the host begin again from time to time.
        pids = {pid for pid, _, _ in rows}
        return next((command for _, parent, command in rows if parent not in pids), "")

    def shell(self, program: Program, script: str) -> str:
        """Return what a shell in a container prints, empty where there is none."""
        return self.engine.run("exec", program.name, "sh", "-c", script, check=False)

    def check_engine(self, program: Program) -> None:
        """Raise EngineError if it was the engine that failed, and not the program."""
        told = [line for line in program.lines if line.lower().startswith(REFUSALS)]
        if program.returncode == ENGINE_FAILED and told:
            raise EngineError(f"a container could not be started: {told[0]}")

    def close(self) -> None:
        """End what runs."""
        self._servers.close()
        if not self.bare:
            self.image.close()
