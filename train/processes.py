"""The processes of a job: started, sent the platform's signals, waited for, none left behind.

This runs as PID 1. The work is done in children, so that the reason can still be told where the
kernel kills one of them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from train.errors import Stopped

__all__ = ["Command", "Supervisor", "explain"]

log = logging.getLogger(__name__)

GRACE = 110.0
"""Seconds from a stop signal until what still runs is killed; the platform waits for 120."""
GRACE_AFTER_FAILURE = 10.0
"""Seconds that the other processes get to end once one of them has failed."""

_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Command:
    """A program to start, with its whole environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path | None = None


class Supervisor:
    """Runs the processes of a job, each in a process group of its own."""

    def __init__(self) -> None:
        self.stopped_by = ""
        """The name of the first stop signal, once there was one."""
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._groups: list[int] = []
        self.time_is_up = False
        """Whether what did not heed a stop, or the end of the others, had to be killed."""
        self._preparing = False
        self._oom_kills = _oom_kills()

    def listen(self) -> None:
        """Install the handlers. A PID 1 without them ignores SIGTERM."""
        # Where this is not PID 1, orphans of the children come here too.
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._forward)
        signal.signal(signal.SIGINT, self._forward)
        signal.signal(signal.SIGALRM, self._kill)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Raise `Stopped` at a stop signal that no process is there to be sent."""
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False

    def run(self, commands: Sequence[Command]) -> int:
        """Run the commands side by side; return the exit code of the first one that failed, or 0.

        A negative code is the number of the signal that ended the process, as in `subprocess`.
        When one fails, the others are ended. What a process leaves running is ended with it, but
        after a stop its process group has the same time: a shell dies of the signal at once, while
        the program that it started still saves.

        Raises:
            Stopped: a stop signal came before anything was started.
        """
        failed = 0
        try:
            for command in commands:
                self._start(command)
            while self._running:
                pid, status = os.waitpid(-1, 0)
                process = self._running.pop(pid, None)
                if process is None:  # an orphan
                    continue
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode and not failed:
                    failed = process.returncode
                    if self._running:
                        self._signal(signal.SIGTERM)
                        signal.setitimer(signal.ITIMER_REAL, GRACE_AFTER_FAILURE)
            while self.stopped_by and not self.time_is_up and _any_runs(self._groups):
                time.sleep(0.05)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _end_descendants()
            self._groups.clear()
        return failed

    def was_killed_for_memory(self) -> bool:
        """Return whether the kernel has killed a process of this container for its memory."""
        return _oom_kills() > self._oom_kills

    def _start(self, command: Command) -> None:
        if self.stopped_by:
            raise Stopped(self.stopped_by)
        process = subprocess.Popen(
            command.arguments,
            env=dict(command.environment),
            cwd=command.directory,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._running[process.pid] = process
        self._groups.append(process.pid)
        if self.stopped_by:  # between the two lines above
            self._signal(signal.SIGTERM)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped_by:
            self.stopped_by = signal.Signals(number).name
            if self._preparing and not self._running:
                raise Stopped(self.stopped_by)
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        self._signal(number)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        log.error("what did not end in time is killed")
        self.time_is_up = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)


def explain(code: int, out_of_memory: bool, what: str, saving: str) -> str:
    """Say in words how a process ended: the cause first, then what to do about it.

    Args:
        code: as `Supervisor.run` returns it.
        out_of_memory: whether the kernel says that it has killed for memory.
        what: the process's name, such as `the training process`.
        saving: what to lower where memory is short.
    """
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        cause = "the kernel ended" if out_of_memory else "SIGKILL ended, most likely the kernel's,"
        return (
            f"out of memory: {cause} {what}. Lower {saving}, or take an instance type with more "
            "memory"
        )
    if code < 0:
        number = signal.Signals(-code)
        how = "crashed in native code with" if number in _CRASHES else "was ended by"
        return f"{what} {how} {number.name}; the log has what it said"
    return f"{what} ended with exit status {code}; the log has what it said"


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, however that ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _any_runs(groups: Sequence[int]) -> bool:
    """Reap what has ended; return whether a process is left in one of the groups."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, 0)
            return True
    return False


def _end_descendants() -> None:
    """Kill and reap what the processes left behind; their own children come here in turn."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children")
    while pids := children.read_text(encoding="ascii").split():
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        for pid in pids:
            os.waitpid(int(pid), 0)


def _oom_kills() -> int:
    try:
        lines = _MEMORY_EVENTS.read_text(encoding="ascii").splitlines()
    except OSError:  # cgroup v1, or none
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
