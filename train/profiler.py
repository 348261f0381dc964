"""What the machine did while the job ran: a CSV file of samples, and advice at the end."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import statistics
import subprocess
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import psutil

from textmodel.hardware import cpu_count

__all__ = ["Profiler", "Sample"]

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two samples."""

OUTLIER = 3.0
"""Steps that take so many times the median are counted as slow."""

LONG = 60.0
"""Seconds from which a job is more than its start."""

_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Sample:
    """The machine over the time since the sample before; a line of the file."""

    seconds: float
    """Since the start."""
    phase: str
    cpu_percent: float
    """Of the cores that the job may use."""
    memory_mb: float
    """Resident, of all the job's processes on this host."""
    memory_percent: float
    """Of the container's limit, or of the machine's memory."""
    gpu_percent: float | None
    """Mean over the GPUs; None without one."""
    gpu_memory_percent: float | None
    """Of the fullest GPU; None without one."""
    steps: int
    step_seconds: float
    """Sum over these steps."""
    wait_seconds: float
    """What these steps waited for data."""


class Profiler:
    """Samples the job's processes on this host from a thread, inside its `with` block."""

    def __init__(self, path: Path | None = None, *, with_siblings: bool = False) -> None:
        """Write to `path`; without one, do nothing.

        `with_siblings`: the parent's other children belong to the job as well.
        """
        self._path = path
        self._tree = _Tree(os.getppid() if with_siblings else os.getpid())
        self._durations, self._waits = array("d"), array("d")  # seconds
        self._totals = _Totals()
        self._phase = "other"
        self._started = self._sampled = time.monotonic()
        self._steps = 0  # of those, how many a sample has told of
        self._file: TextIO | None = None
        self._gpus: Callable[[], tuple[float | None, float | None]] = lambda: (None, None)
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._stack.enter_context(
                    self._path.open("w", encoding="utf-8", newline="", buffering=1)
                )
                csv.writer(self._file).writerow(field.name for field in fields(Sample))
            except OSError as error:
                log.warning("no profile: %s", error)
                self._path = self._file = None
        if self._path:
            self._gpus = self._stack.enter_context(_gpus())
            self._stack.enter_context(_every(INTERVAL, self._sample))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            self._sample()
        if self._path and error is None:
            log.info("%s", self._totals.describe(self._durations, self._waits))
        self._path = self._file = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name the work inside, in place of the phase around it."""
        before = self._phase
        self._sample()
        self._phase = name
        try:
            yield
        finally:
            self._sample()
            self._phase = before

    def step(self, duration: float, waited: float = 0.0) -> None:
        """Note a step of the training, in seconds, and how long it waited for its data first."""
        if self._path:
            self._durations.append(duration)
            self._waits.append(waited)

    def _sample(self) -> None:
        if not self._path:
            return
        with self._lock:
            now = time.monotonic()
            elapsed = max(now - self._sampled, 1e-3)
            cpu, memory = self._tree.usage()
            steps = len(self._durations)
            sample = Sample(
                seconds=round(now - self._started, 3),
                phase=self._phase,
                cpu_percent=round(min(100.0, 100 * cpu / elapsed / cpu_count().value), 1),
                memory_mb=round(memory / 1e6, 1),
                memory_percent=round(100 * memory / _memory_limit(), 1),
                **dict(zip(("gpu_percent", "gpu_memory_percent"), self._gpus(), strict=True)),
                steps=steps - self._steps,
                step_seconds=round(sum(self._durations[self._steps : steps]), 3),
                wait_seconds=round(sum(self._waits[self._steps : steps]), 3),
            )
            self._steps, self._sampled = steps, now
            self._totals.add(sample, elapsed)
            try:
                if self._file:
                    csv.writer(self._file).writerow(astuple(sample))
            except OSError as error:
                log.warning("the profile ends here: %s", error)
                self._file = None


class _Totals:
    """What is kept of all the samples, however long the job runs."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)  # seconds
        self.cpu = self.gpu = self.seconds = 0.0  # percent times seconds
        self.memory_mb = self.memory = 0.0
        self.gpu_memory: float | None = None

    def add(self, sample: Sample, elapsed: float) -> None:
        self.seconds += elapsed
        self.phases[sample.phase] += elapsed
        self.cpu += sample.cpu_percent * elapsed
        self.memory_mb = max(self.memory_mb, sample.memory_mb)
        self.memory = max(self.memory, sample.memory_percent)
        self.gpu += (sample.gpu_percent or 0.0) * elapsed
        if sample.gpu_memory_percent is not None:
            self.gpu_memory = max(self.gpu_memory or 0.0, sample.gpu_memory_percent)

    def describe(self, durations: array[float], waits: array[float]) -> str:
        """Return the paragraph of the log: what was measured, and what to do about it."""
        seconds = max(self.seconds, 1e-9)
        cpu, gpu = self.cpu / seconds, self.gpu / seconds
        phases = ", ".join(
            f"{name} {100 * spent / seconds:.0f} %" for name, spent in self.phases.items()
        )
        told = [
            f"profile: {seconds:.0f} s ({phases})",
            f"the CPU was busy {cpu:.0f} % of the time"
            + _if(self.gpu_memory is None and cpu >= 90, "an instance with more cores would help")
            + _if(self.gpu_memory is None and cpu < 30 and seconds > LONG, "fewer cores would do"),
            f"memory peaked at {self.memory_mb:.0f} MB, {self.memory:.0f} % of the limit"
            + _if(
                self.memory >= 85,
                "lower train_batch_size, or take more memory" if durations else "take more memory",
            ),
        ]
        if self.gpu_memory is not None:
            told += [
                f"the GPU was busy {gpu:.0f} % of the time"
                + _if(
                    gpu < 50,
                    "raise train_batch_size, or take a smaller one"
                    if durations
                    else "a smaller one would do",
                ),
                f"its memory peaked at {self.gpu_memory:.0f} %"
                + _if(bool(durations) and self.gpu_memory >= 90, "lower train_batch_size")
                + _if(bool(durations) and self.gpu_memory < 40, "train_batch_size can be raised"),
            ]
        if durations:
            median = statistics.median(durations)
            slow = sum(duration > OUTLIER * median for duration in durations)
            waited = 100 * sum(waits) / max(sum(waits) + sum(durations), 1e-9)
            told += [
                f"{slow} of {len(durations)} steps took more than {OUTLIER:g} times the median of "
                f"{median:.3g} s"
                + _if(
                    slow > 0.05 * len(durations), "texts of very different length, or a busy host"
                ),
                f"steps waited {waited:.0f} % of their time for data"
                + _if(waited > 10, "an instance with more cores would help"),
            ]
        return "; ".join(told)


class _Tree:
    """A process and all that descend from it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[psutil.Process, float] = {}

    def usage(self) -> tuple[float, int]:
        """Return the CPU seconds since the last call, and the resident memory in bytes."""
        cpu: dict[psutil.Process, float] = {}
        memory = 0
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory += process.memory_info().rss
            except psutil.Error:  # it has ended
                continue
            cpu[process] = times.user + times.system
        used = sum(value - self._cpu.get(process, 0.0) for process, value in cpu.items())
        used = used if self._cpu else 0.0
        self._cpu = cpu
        return used, memory


@contextmanager
def _every(interval: float, work: Callable[[], None]) -> Iterator[None]:
    """Do the work every few seconds, in a thread."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(interval):
            work()

    thread = threading.Thread(target=run, name="profiler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def _gpus() -> Iterator[Callable[[], tuple[float | None, float | None]]]:
    """Yield a function that returns how busy and how full the GPUs are, in percent."""
    program = shutil.which("nvidia-smi")
    if not program:
        yield lambda: (None, None)
        return
    latest: dict[str, tuple[float, float]] = {}

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            index, *numbers = (field.strip() for field in line.split(","))
            try:
                busy, used, total = map(float, numbers)
            except ValueError:  # [N/A], where a GPU is shared
                continue
            latest[index] = busy, 100 * used / total

    def usage() -> tuple[float | None, float | None]:
        if not latest:
            return None, None
        busy, full = zip(*latest.values(), strict=True)
        return round(statistics.fmean(busy), 1), round(max(full), 1)

    query = "--query-gpu=index,utilization.gpu,memory.used,memory.total"
    process = subprocess.Popen(
        [program, query, "--format=csv,noheader,nounits", f"--loop={INTERVAL:.0f}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    reader = threading.Thread(target=read, name="nvidia-smi", daemon=True)
    reader.start()
    try:
        yield usage
    finally:
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout
        process.stdout.close()


def _memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that the container may use, or that the machine has."""
    machine = psutil.virtual_memory().total
    for name in _CGROUP_LIMITS:
        try:
            return min(machine, int((cgroup / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # another version of cgroups, or `max`
            continue
    return machine


def _if(true: bool, advice: str) -> str:
    return f" ({advice})" if true else ""
