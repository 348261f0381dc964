"""Training jobs of an image: one as strict as it stands, and those that go wrong on purpose."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_test.conformance.rules import NotApplicable
from local_test.conformance.secret import SECRET
from local_test.conformance.trials import Trials, search
from local_test.job import GRACE
from local_test.opt_ml import INSTANCE_TYPE, build, files, quote_as_sdk_v2
from local_test.pipes import Feeder
from local_test.programs import Mount, Program, Surroundings
from local_test.source import CHANNEL, submit

if TYPE_CHECKING:
    from local_test.conformance.subject import Subject

__all__ = ["DEMANDS", "HOSTS", "SCRIPT_SAYS", "Job", "Jobs", "Stop"]

DEMANDS = (
    "train-offline", "train-read-only-root", "train-read-only-input",
    "train-quoted-hyperparameters", "train-reserved-hyperparameters", "train-lean-resources",
)  # fmt: skip
"""Rules whose demands one job is put under, all together where it stands that."""

RESERVED = {
    "sagemaker_container_log_level": "20",
    "sagemaker_job_name": '"conform"',
    "sagemaker_region": '"eu-central-1"',
    "_tuning_objective_metric": "accuracy",
}
"""What SDK 2 and the tuning service add to a user's hyperparameters."""

LEAN_RESOURCES = {
    "current_host": "algo-1",
    "hosts": ["algo-1"],
    "network_interface_name": "ethwe",
}
"""What the SDKs' local modes write, with an interface that no container has."""

HOSTS = ("algo-1", "algo-2")
SCRIPT = "conform_script.py"
SCRIPT_SAYS = "conform-script: "
"""Begins the line in which a script tells what it was given, in JSON."""

LOADING = 15.0
"""Seconds in which a job has read its checkpoints, or failed at it."""

BETWEEN_SIGNALS = 0.2
"""Seconds from one SIGTERM to the next, where there are two."""

PIPE_MARGIN = 60.0
"""Seconds that a job in Pipe mode may take beyond one in File mode, before it is said to hang."""

ENVIRONMENT = {
    "TRAINING_JOB_NAME": "conform",
    "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-central-1:123456789012:training-job/conform",
    "AWS_REGION": "eu-central-1",
    **SECRET,
}


@dataclass(frozen=True)
class Job:
    """A training job that has ended, or was ended."""

    code: int | None
    """Exit status; None where it ran for longer than it may."""
    seconds: float
    lines: Sequence[str]
    tree: Path

    @property
    def failure(self) -> str | None:
        """What stands in /opt/ml/output/failure."""
        file = self.tree / "output/failure"
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None

    @property
    def model(self) -> list[Path]:
        return sorted(path for path in (self.tree / "model").rglob("*") if not path.is_dir())

    @property
    def kept(self) -> list[str]:
        """Which of the directories that outlive it hold files."""
        return [name for name in ("model", "checkpoints") if _files(self.tree / name)]

    def __str__(self) -> str:
        if self.code is None:
            return f"still ran after {self.seconds:.0f} s"
        told = f"exit status {self.code} after {self.seconds:.1f} s"
        if not self.code:
            return told
        lines = [line for line in (self.failure or "").splitlines() or self.lines if line.strip()]
        cause = lines[0] if self.failure and lines else "".join(lines[-1:])
        return f"{told}: {cause[:200]}" if cause else told


@dataclass(frozen=True)
class Stop:
    """A job that was stopped on its way."""

    job: Job
    grace: float
    seconds: float
    """From the last SIGTERM to its end."""
    said: int
    """Lines of its log when the first SIGTERM came, by which it is seen how far it was."""
    process_1: str


class Jobs:
    """The jobs that rules look at, each run once, when the first rule asks for it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._options = subject.options
        self._quick: list[float] = []

    @cached_property
    def trials(self) -> Trials[Job]:
        """Jobs under the demands that were asked for."""
        demands = [demand for demand in DEMANDS if demand in self._options.rules]
        if not self._options.hyperparameters:
            demands = [name for name in demands if name != "train-quoted-hyperparameters"]
        return search(demands, self._under, lambda job: job.code == 0)

    @property
    def working(self) -> Trials[Job]:
        """The trials, of which one went well.

        Raises:
            NotApplicable: none did.
        """
        if not self.trials.works:
            raise NotApplicable("no job went well (rule train-completes)")
        return self.trials

    @property
    def done(self) -> Job:
        """A job that went well.

        Raises:
            NotApplicable: there is none.
        """
        return self.working.best

    @property
    def seconds(self) -> float:
        """What the quickest job that went well took: the first has to warm the machine's caches."""
        return min(self.done.seconds, *self._quick)

    @cached_property
    def empty(self) -> Job:
        """A job without hyperparameters."""
        if not self._options.hyperparameters:
            return self.trials.best
        return self._run(self._tree({}), self.trials.kept)

    @cached_property
    def again(self) -> Job:
        """A job that finds what one before it left, as after a spot interruption."""
        tree = self.done.tree
        (tree / "output/failure").unlink(missing_ok=True)
        return self._run(tree, self.trials.kept)

    @cached_property
    def failing(self) -> Job:
        """A job that cannot go well, for want of data."""
        for channels in self._useless():
            tree = self._tree(self._options.hyperparameters, channels)
            if not channels:
                (tree / "input/config/inputdataconfig.json").unlink()
            job = self._run(tree, self.trials.kept)
            if job.code or job.failure is not None:
                return job
        raise NotApplicable("jobs without data, and on files of noise, go well too")

    @cached_property
    def stopped(self) -> Stop:
        """A job that gets SIGTERM half-way; one that is said to be long, when others have ended."""
        return self._stopped()

    @cached_property
    def stopped_twice(self) -> Stop:
        """A job that gets SIGTERM as far on its way, and again while it still stops."""
        return self._stopped(self.stopped.said, twice=True)

    def _stopped(self, lines: int = 0, *, twice: bool = False) -> Stop:
        long = self._options.stop_hyperparameters
        hyperparameters = {**self._options.hyperparameters, **long}
        for wait in [self.seconds + 1] if long else [self.seconds / part for part in (2, 4, 8)]:
            tree = self._tree(hyperparameters)
            program = self._start(tree, self.trials.kept)
            try:
                started = time.monotonic()
                until, latest = started + wait, started + 4 * wait + LOADING
                while program.returncode is None and (
                    time.monotonic() < until
                    or (len(program.lines) < lines and time.monotonic() < latest)
                ):
                    time.sleep(0.1)
                process_1 = self._subject.process_1(program)
                if program.returncode is None:
                    grace = self._options.grace or GRACE
                    said = len(program.lines)
                    if twice:
                        program.send(signal.SIGTERM)
                        time.sleep(BETWEEN_SIGNALS)
                    seconds = program.stop(grace)
                    job = Job(program.returncode, time.monotonic() - started, program.lines, tree)
                    return Stop(job, grace, seconds, said, process_1)
            finally:
                program.remove()
        raise NotApplicable("the job is over too soon to be stopped; give --stop-hyperparameter")

    @cached_property
    def damaged(self) -> Job:
        """A job that goes on from what a stopped one left, with its newest checkpoint cut short."""
        tree = self.stopped.job.tree
        left = _files(tree / "checkpoints")
        if not left:
            raise NotApplicable("the stopped job left no checkpoint")
        newest = max(left, key=lambda path: (path.stat().st_mtime, path.stat().st_size))
        (tree / "output/failure").unlink(missing_ok=True)
        try:
            os.truncate(newest, newest.stat().st_size // 2)
        except PermissionError as error:
            raise NotApplicable(f"its checkpoints belong to another user: {error}") from error
        return self._run(tree, self.trials.kept, 2 * self.seconds + LOADING)

    @cached_property
    def piped(self) -> Job:
        """A job all of whose channels are in Pipe mode."""
        tree = self._tree(self._options.hyperparameters, mode="Pipe")
        with ExitStack() as stack:
            for name, path in self._options.data.items():
                feeder = Feeder(tree / "input/data" / name, files(path))
                stack.callback(feeder.close)
            return self._run(tree, self.working.kept, self.seconds + PIPE_MARGIN)

    @cached_property
    def two(self) -> list[Job]:
        """A job on two instances, in groups that are named in another order."""
        subject, started = self._subject, time.monotonic()
        with ExitStack() as stack:
            programs, trees = [], []
            for host in HOSTS:
                trees.append(self._tree(self._options.hyperparameters, host=host))
                programs.append(self._start(trees[-1], self.working.kept, host))
                stack.callback(programs[-1].remove)
            limit = started + self._options.max_runtime
            while any(program.returncode is None for program in programs):
                failed = any(program.returncode for program in programs)
                if failed or time.monotonic() > limit:  # the platform then stops the others
                    break
                time.sleep(0.1)
            seconds = time.monotonic() - started
            codes = [program.returncode for program in programs]
        for program in programs:
            subject.check_engine(program)
        return [Job(code, seconds, program.lines, tree)
                for code, program, tree in zip(codes, programs, trees, strict=True)]  # fmt: skip

    @cached_property
    def scripted(self) -> Job:
        """A job with a script of its own, sent as SDK 2 does."""
        source = self._subject.new_directory("script")
        shutil.copy(Path(__file__).with_name("script.py"), source / SCRIPT)
        scratch = self._subject.new_directory("source")
        tree = self._subject.new_directory("job")
        base = tree if self._subject.bare else Path("/opt/ml")
        archive, more = submit(source, SCRIPT, scratch, base)
        channels = {**self._options.data, CHANNEL: archive}
        self._tree({**self._options.hyperparameters, **more}, channels, tree=tree)
        return self._run(tree, self.working.kept)

    def _under(self, demands: frozenset[str]) -> Job:
        hyperparameters = dict(self._options.hyperparameters)
        if "train-quoted-hyperparameters" in demands:
            hyperparameters = {k: quote_as_sdk_v2(v) for k, v in hyperparameters.items()}
        if "train-reserved-hyperparameters" in demands:
            hyperparameters |= RESERVED
        tree = self._tree(hyperparameters)
        if "train-lean-resources" in demands:
            (tree / "input/config/resourceconfig.json").write_text(json.dumps(LEAN_RESOURCES))
        return self._run(tree, demands)

    def _useless(self) -> list[dict[str, Path]]:
        """Return channels from which nothing can be learnt."""
        nothing, noise = self._subject.new_directory("empty"), self._subject.new_directory("noise")
        (noise / "data.csv").write_bytes(bytes(range(256)) * 16)
        names = self._options.data
        return [{}, dict.fromkeys(names, nothing), dict.fromkeys(names, noise)]

    def _tree(
        self,
        hyperparameters: Mapping[str, str],
        channels: Mapping[str, Path] | None = None,
        *,
        mode: str = "File",
        host: str = "",
        tree: Path | None = None,
    ) -> Path:
        tree = tree or self._subject.new_directory("job")
        data = self._options.data if channels is None else channels
        build(
            tree, data, {}, hyperparameters, input_modes=dict.fromkeys(data, mode),
            hosts=HOSTS if host else HOSTS[:1], host=host or HOSTS[0],
        )  # fmt: skip
        if host:
            (tree / "input/config/resourceconfig.json").write_text(json.dumps(_two_groups(host)))
        return tree

    def _start(self, tree: Path, demands: frozenset[str], host: str = "") -> Program:
        offline = "train-offline" in demands
        mounts = [Mount(tree, "/opt/ml")]
        if "train-read-only-input" in demands:
            mounts.append(Mount(tree / "input", "/opt/ml/input", read_only=True))
        surroundings = Surroundings(
            environment={**ENVIRONMENT, **self._options.environment},
            mounts=mounts,
            network=self._subject.network if host else "none" if offline else "bridge",
            hostname=host or ("algo-1" if offline else ""),
            read_only="train-read-only-root" in demands,
            options=[] if offline or host else ["--hostname", "algo-1"],
            base=tree,
        )
        return self._subject.start("train", surroundings)

    def _run(self, tree: Path, demands: frozenset[str], limit: float = math.inf) -> Job:
        started = time.monotonic()
        program = self._start(tree, demands)
        try:
            code: int | None = program.wait(min(limit, self._options.max_runtime))
        except TimeoutError:
            code = None
        finally:
            program.remove()
        self._subject.check_engine(program)
        job = Job(code, time.monotonic() - started, program.lines, tree)
        if code == 0:
            self._quick.append(job.seconds)
        return job


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _two_groups(host: str) -> dict[str, Any]:
    """Return the resourceconfig.json of a host of two, each in a group of its own."""
    groups = {"second": HOSTS[1], "first": HOSTS[0]}
    return {
        "current_host": host,
        "current_instance_type": INSTANCE_TYPE,
        "current_group_name": next(name for name, one in groups.items() if one == host),
        "hosts": HOSTS,
        "instance_groups": [
            {"instance_group_name": name, "instance_type": INSTANCE_TYPE, "hosts": [one]}
            for name, one in groups.items()
        ],
        "network_interface_name": "eth0",
    }
