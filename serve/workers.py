"""Several worker processes on one socket: how many, and what they know of each other."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from serve.memory import size
from serve.settings import Settings
from serve.user_code import find_program
from textmodel.hardware import Choice, cpu_count, free_memory

__all__ = ["Scoreboard", "share_metrics", "worker_count"]

CORES = 4
"""Cores that one process makes use of: with more, Python's lock is the limit of short texts.
docs/measured.md has the figures."""
MEMORY = 512 * 2**20
"""Bytes that a worker takes at most, beside four times its model's files."""

_LOADING = -1
_MOMENT = 10**9
"""Nanoseconds for which a worker is taken for healthy that was found so."""


def worker_count(settings: Settings) -> Choice[int]:
    """Return how many processes serve, each with the model and its part of the cores."""
    if settings.multi_model:
        return _workers(1, "models that come and go are in one process")
    if settings.workers is not None:
        return _workers(settings.workers, "as requested")
    if find_program(settings.model, settings) is not None:
        return _workers(1, "code of your own; SAGEMAKER_MODEL_SERVER_WORKERS sets more")
    if Path("/dev/nvidiactl").exists():
        return _workers(1, "the GPU is one process's")
    cores = cpu_count().value
    useful = max(1, cores // CORES)
    if useful > 1:
        memory = free_memory().value
        fitting = max(1, memory // (MEMORY + 4 * size(settings.model)))
        if fitting < useful:
            return _workers(fitting, f"{memory / 2**20:.0f} MB of memory are free")
    return _workers(useful, f"cpus={cores}, and one process makes use of {CORES}")


def _workers(count: int, reason: str) -> Choice[int]:
    return Choice("workers", count, reason)


def share_metrics() -> None:
    """Have all workers count into one directory.

    prometheus-client wants to know of it before it is imported.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="metrics-")


class Scoreboard:
    """Which workers serve, and how many connections each has, in memory that all have in common.

    It is made before the first one is forked. It has a place for twice as many, because SIGHUP
    replaces all of them, and the new ones are there before the old ones are gone.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        """How many there are to be."""
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """A file that is readable once somebody rang."""
        self._places = range(2 * workers)
        self._connections = _shared(len(self._places))
        self._in_hand = _shared(len(self._places))
        self._shut = _shared(len(self._places))
        # Two counters, as each number may be written by one process only.
        self._passed_on, self._taken = _shared(len(self._places)), _shared(len(self._places))
        self._healthy = _shared(len(self._places))
        self._complete, self._refused, self._counted = _shared(1), _shared(1), _shared(1)
        for place in self._places:
            self.clear(place)

    def free_place(self, taken: Collection[int]) -> int:
        """Return the first place that no worker has."""
        return next(place for place in self._places if place not in taken)

    def clear(self, place: int) -> None:
        """Note that the worker at a place does not serve: it has not loaded yet, or is gone."""
        self._connections[place] = _LOADING
        for numbers in (
            self._in_hand, self._shut, self._passed_on, self._taken, self._healthy
        ):  # fmt: skip
            numbers[place] = 0
        if not any(map(self.serves, self._places)):
            self._complete[0] = False

    def serves(self, place: int) -> bool:
        """Return whether the worker at a place has its model."""
        return self._connections[place] != _LOADING

    def begin(self, place: int) -> None:
        """Note that the worker at a place serves from now on."""
        self._connections[place] = 0
        if sum(map(self.serves, self._places)) >= self.workers:
            self._complete[0] = True

    @property
    def complete(self) -> bool:
        """Whether all have their model, or had it: while some are replaced, the others serve."""
        return bool(self._complete[0])

    def others_serve(self, place: int) -> bool:
        """Return whether a worker at another place has its model."""
        return any(self.serves(other) for other in self._places if other != place)

    def count(self, place: int, connections: int) -> None:
        """Note how many connections the worker at a place has, if it serves."""
        if self.serves(place):
            self._connections[place] = connections

    def others_have_fewer(self, connections: int) -> bool:
        """Return whether a worker that serves has fewer connections than that."""
        return any(0 <= other < connections for other in self._connections)

    def connections(self, place: int) -> int:
        """Return how many connections the worker at a place has."""
        return self._connections[place]

    def note_in_hand(self, place: int, requests: int) -> None:
        """Note how many requests the worker at a place has in hand."""
        self._in_hand[place] = requests

    def shut(self, place: int, shut: bool) -> None:
        """Note whether the worker at a place leaves new connections to the doorman."""
        self._shut[place] = shut
        if shut:
            self.ring()

    @property
    def all_shut(self) -> bool:
        """Whether all workers that serve leave new connections to the doorman."""
        serving = [place for place in self._places if self.serves(place)]
        return bool(serving) and all(self._shut[place] for place in serving)

    def note_passed_on(self, place: int) -> None:
        """Note that the worker at a place is given a connection by the doorman."""
        self._passed_on[place] += 1

    def note_taken(self, place: int) -> None:
        """Note that it has taken one."""
        self._taken[place] += 1

    def load(self, place: int) -> int:
        """Return how many requests the worker at a place has, with those that are on their way."""
        return self._in_hand[place] + self._passed_on[place] - self._taken[place]

    def note_healthy(self, place: int) -> None:
        """Note that the worker at a place would answer a health check with 200."""
        self._healthy[place] = time.monotonic_ns()

    def is_healthy(self, place: int) -> bool:
        """Return whether it would have a moment ago."""
        return time.monotonic_ns() - self._healthy[place] < _MOMENT

    def ring(self) -> None:
        """Have whoever watches the bell look up."""
        os.eventfd_write(self.bell, 1)

    def rang(self) -> bool:
        """Return whether somebody rang since the last call."""
        try:
            return os.eventfd_read(self.bell) > 0
        except BlockingIOError:
            return False

    def count_refusal(self) -> None:
        """Count a request that was refused before a worker had it."""
        self._refused[0] += 1

    def newly_refused(self) -> int:
        """Return how many such requests no worker has been told of, and count them as told."""
        new = self._refused[0] - self._counted[0]
        self._counted[0] += new
        return new


def _shared(numbers: int) -> memoryview[int]:
    return memoryview(mmap.mmap(-1, 8 * numbers)).cast("q")
