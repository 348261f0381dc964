"""Several worker processes on one socket: how many, and what they know of each other."""

from __future__ import annotations

import mmap
import os
import tempfile
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
        self._places = range(2 * workers)
        self._connections = memoryview(mmap.mmap(-1, 8 * (len(self._places) + 1))).cast("q")
        for place in self._places:
            self.clear(place)

    def free_place(self, taken: Collection[int]) -> int:
        """Return the first place that no worker has."""
        return next(place for place in self._places if place not in taken)

    def clear(self, place: int) -> None:
        """Note that the worker at a place does not serve: it has not loaded yet, or is gone."""
        self._connections[place] = _LOADING
        if not any(map(self.serves, self._places)):
            self._connections[-1] = False

    def serves(self, place: int) -> bool:
        """Return whether the worker at a place has its model."""
        return self._connections[place] != _LOADING

    def begin(self, place: int) -> None:
        """Note that the worker at a place serves from now on."""
        self._connections[place] = 0
        if sum(map(self.serves, self._places)) >= self.workers:
            self._connections[-1] = True

    @property
    def complete(self) -> bool:
        """Whether all have their model, or had it: while some are replaced, the others serve."""
        return bool(self._connections[-1])

    def others_serve(self, place: int) -> bool:
        """Return whether a worker at another place has its model."""
        return any(self.serves(other) for other in self._places if other != place)

    def count(self, place: int, connections: int) -> None:
        """Note how many connections the worker at a place has, if it serves."""
        if self.serves(place):
            self._connections[place] = connections

    def others_have_fewer(self, connections: int) -> bool:
        """Return whether a worker that serves has fewer connections than that."""
        return any(0 <= other < connections for other in self._connections[:-1])
