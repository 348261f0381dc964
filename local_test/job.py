"""A training job from start to end, as the service goes through it: hosts, interruptions, limits.

Source: the CreateTrainingJob and DescribeTrainingJob API; Amazon SageMaker developer guide, "Run
your training code", "Managed spot training".
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from local_test import opt_ml
from local_test.arguments import say
from local_test.checkpoints import Checkpoints
from local_test.launchers import CHECKPOINTS, Launcher
from local_test.metrics import Metrics
from local_test.packing import merge, pack
from local_test.pipes import Feeder
from local_test.programs import Mount, Program, Surroundings

__all__ = ["GRACE", "REASON_LIMIT", "Job", "Request"]

GRACE = 120.0
"""Seconds between SIGTERM and SIGKILL."""

REASON_LIMIT = 1024
"""Characters of output/failure that become the FailureReason."""

LOOK = 0.05
"""Seconds between two looks at the programs."""

CAUSES = {
    "Stopped": "StopTrainingJob",
    "MaxRuntimeExceeded": "MaxRuntimeInSeconds is over",
    "Interrupted": "spot interruption {count}",
    "Failed": "another host has failed",
}
"""By the secondary status that follows: why the programs are stopped."""

BILLED = ("Downloading", "Training", "Stopping", "Uploading")


@dataclass(frozen=True)
class Request:
    """What CreateTrainingJob asks for, and where the results go."""

    name: str
    output: Path
    """The job's /opt/ml; of several hosts their trees, by name."""
    channels: Mapping[str, Path] = field(default_factory=dict)
    content_types: Mapping[str, str] = field(default_factory=dict)
    input_modes: Mapping[str, str] = field(default_factory=dict)
    sharded: Collection[str] = ()
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions by name."""
    instances: int = 1
    checkpoints: Path | None = None
    """What stands for CheckpointConfig's S3Uri."""
    interruptions: Sequence[float] = ()
    """Seconds after which the first attempts lose their spot instances, one each."""
    max_runtime: float = 86400.0
    """Seconds of training, of all attempts together."""
    network: str = "none"
    isolated: bool = True
    read_only: bool = False
    grace: float = GRACE

    @property
    def hosts(self) -> list[str]:
        return [f"algo-{number}" for number in range(1, self.instances + 1)]

    def tree(self, host: str) -> Path:
        return self.output if self.instances == 1 else self.output / host


class Job:
    """A job that runs once.

    Raises:
        ArgumentError: the service would refuse the request.
    """

    def __init__(self, request: Request, launcher: Launcher) -> None:
        self.request, self._launcher = request, launcher
        opt_ml.check(request.output, request.channels, request.content_types,
                     request.hyperparameters, request.input_modes, request.sharded)  # fmt: skip
        self.metrics = Metrics(request.metrics)
        self.transitions: list[tuple[str, float]] = []
        """Secondary statuses, and when each began, in seconds since 1970."""
        self.status = "InProgress"
        self.reason = ""
        """The FailureReason."""
        self.code = 0
        """The exit status of the program; of several hosts, of the one that failed first."""
        self.archives: dict[str, Path] = {}
        """model.tar.gz and output.tar.gz, where there was something to pack."""
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._interrupt = threading.Event()
        trees = [request.tree(host) / "checkpoints" for host in request.hosts]
        self._checkpoints = (  # a lone host has them mounted
            Checkpoints(request.checkpoints, trees)
            if request.checkpoints and request.instances > 1
            else None
        )
        self._trained = 0.0
        self._failed = ""

    @property
    def secondary_status(self) -> str:
        return self.transitions[-1][0]

    @property
    def billable_seconds(self) -> float:
        ends = [start for _, start in self.transitions[1:]]
        return sum(end - start for (status, start), end in zip(self.transitions, ends, strict=False)
                   if status in BILLED)  # fmt: skip

    def stop(self) -> None:
        """Do as StopTrainingJob does; called again, do not wait for the programs any longer."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def interrupt(self, notice: bool = True) -> None:
        """Take the spot instances away now; without notice SIGKILL follows SIGTERM at once."""
        if not notice:
            self._hurry.set()
        self._interrupt.set()

    def run(self) -> None:
        """Go through the job, and leave its archives in the output directory."""
        cause, interruptions = "Interrupted", list(self.request.interruptions)
        while cause == "Interrupted":
            self._enter("Starting")
            self._enter("Downloading")
            self._lay_out()
            self._enter("Training")
            cause = self._attempt(interruptions.pop(0) if interruptions else None)
            if self._checkpoints:
                self._checkpoints.collect()
        if interruptions:
            say(f"the job ended before {len(interruptions)} of its interruptions")
        self._finish(cause)

    def _enter(self, status: str) -> None:
        self.transitions.append((status, time.time()))

    def _lay_out(self) -> None:
        request = self.request
        store = request.checkpoints
        kept = bool(store and store.resolve() == (request.output / "checkpoints").resolve())
        if request.instances > 1:
            opt_ml.clear(request.output, kept)
        for host in request.hosts:
            opt_ml.build(
                request.tree(host),
                request.channels,
                request.content_types,
                request.hyperparameters,
                input_modes=request.input_modes,
                sharded=request.sharded,
                hosts=request.hosts,
                host=host,
                keep_checkpoints=kept,
            )
        if store and not store.is_dir():
            store.mkdir(parents=True)
            store.chmod(0o777)
        if self._checkpoints:
            self._checkpoints.restore()

    def _attempt(self, interruption: float | None) -> str:
        """Run the programs until they end or are stopped.

        Returns:
            The secondary status that the job would end with; empty if it completed.
        """
        self._failed, self.code = "", 0
        if self._interrupt.is_set():  # that was the attempt before
            self._interrupt.clear()
            self._hurry.clear()
        with ExitStack() as stack:
            programs: list[Program] = []
            for host in self.request.hosts:
                for feeder in self._feeders(host):
                    stack.callback(feeder.close)
                programs.append(
                    self._launcher.start(self._surroundings(host), self._listener(host))
                )
                stack.callback(programs[-1].remove)
            cause = self._watch(programs, interruption)
            self._note_failure(programs)
        kept = [self.request.checkpoints] if self.request.checkpoints else []
        self._launcher.reclaim([*map(self.request.tree, self.request.hosts), *kept])
        return cause or ("Failed" if self.code else "")

    def _note_failure(self, programs: Sequence[Program]) -> None:
        """Remember the first host that failed; of two at the same time the first by name."""
        if not self.code:
            hosts = zip(self.request.hosts, programs, strict=True)
            failed = ((host, program.returncode) for host, program in hosts if program.returncode)
            self._failed, self.code = next(failed, ("", 0))

    def _watch(self, programs: Sequence[Program], interruption: float | None) -> str:
        started = time.monotonic()
        try:
            while any(program.returncode is None for program in programs):
                if cause := self._cause(programs, time.monotonic() - started, interruption):
                    self._note_failure(programs)
                    self._end(programs, cause)
                    return cause
                time.sleep(LOOK)
        finally:
            self._trained += time.monotonic() - started
        return ""

    def _cause(
        self, programs: Sequence[Program], elapsed: float, interruption: float | None
    ) -> str | None:
        causes = {
            "Failed": any(program.returncode for program in programs),
            "Stopped": self._stop.is_set(),
            "MaxRuntimeExceeded": self._trained + elapsed >= self.request.max_runtime,
            "Interrupted": self._interrupt.is_set()
            or (interruption is not None and elapsed >= interruption),
        }
        return next((cause for cause, holds in causes.items() if holds), None)

    def _end(self, programs: Sequence[Program], cause: str) -> None:
        """Send SIGTERM to all programs, and SIGKILL to those that still run after the grace."""
        if cause != "Failed":
            self._enter("Interrupted" if cause == "Interrupted" else "Stopping")
        count = [status for status, _ in self.transitions].count("Interrupted")
        grace = 0 if self._hurry.is_set() else self.request.grace
        say(f"{CAUSES[cause].format(count=count)}: SIGTERM now, SIGKILL after {grace:g} s")
        deadline = time.monotonic() + grace
        for program in programs:
            program.send(signal.SIGTERM)
        while running := [program for program in programs if program.returncode is None]:
            if time.monotonic() > deadline or self._hurry.is_set():
                for program in running:
                    say(f"{program.name} still runs: SIGKILL")
                    program.send(signal.SIGKILL)
                    program.wait()
            time.sleep(LOOK)

    def _feeders(self, host: str) -> list[Feeder]:
        request = self.request
        return [
            Feeder(
                request.tree(host) / "input/data" / name,
                opt_ml.files(
                    request.channels[name],
                    opt_ml.share(name, request.sharded, request.hosts, host),
                ),
            )
            for name, mode in request.input_modes.items()
            if mode == "Pipe"
        ]

    def _surroundings(self, host: str) -> Surroundings:
        request, tree = self.request, self.request.tree(host)
        mounts = [Mount(tree, "/opt/ml")]
        for name, mode in request.input_modes.items():
            if mode == "FastFile":
                inside = f"input/data/{name}"
                mounts.append(Mount(tree / inside, f"/opt/ml/{inside}", read_only=True))
        if request.checkpoints and not self._checkpoints:
            mounts.append(Mount(request.checkpoints, CHECKPOINTS))
        return Surroundings(
            environment=request.environment,
            mounts=mounts,
            network=request.network,
            hostname=host,
            read_only=request.read_only,
            base=tree,
        )

    def _listener(self, host: str) -> Callable[[str], None]:
        prefix = f"[{host}] " if self.request.instances > 1 else ""

        def listen(line: str) -> None:
            print(prefix + line, flush=True)
            self.metrics.read(line)

        return listen

    def _finish(self, cause: str) -> None:
        self.status = {"": "Completed", "Failed": "Failed"}.get(cause, "Stopped")
        self._enter("Uploading")
        trees = [self.request.tree(host) for host in self.request.hosts]
        if self.status == "Failed":
            self.reason = self._failure()
        else:
            self._pack("model.tar.gz", [tree / "model" for tree in trees])
        self._pack("output.tar.gz", [tree / "output/data" for tree in trees])
        self._enter(cause or "Completed")

    def _pack(self, name: str, directories: Sequence[Path]) -> None:
        if members := merge(directories):
            self.archives[name] = self.request.output / name
            pack(members, self.archives[name])

    def _failure(self) -> str:
        path = self.request.tree(self._failed) / "output/failure"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text[:REASON_LIMIT] or f"AlgorithmError: , exit code: {self.code}"
