"""The processes that work on one job together, through torch.distributed."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from train.errors import PeerLost
from train.progress import INTERVAL

__all__ = ["World", "peer_lost"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 15 * 60.0
"""Seconds to wait until every process has started: hosts differ in how long their input takes."""
TIMEOUT = timedelta(minutes=30)
"""How long one process may let the others wait before it counts as lost.

A peer that ends breaks its connections, which is noticed at once; this is for one that vanishes
without a word. It must outlast whatever one process does alone, such as writing a checkpoint.
"""


@dataclass(frozen=True)
class World:
    """This process's place among those of the job. Every process must make the same calls."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls) -> World:
        """Join the processes that `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` tell of.

        Raises:
            PeerLost: not all of them were there in time.
        """
        rank, size, local_rank = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        if size > 1:
            import torch

            gpu = torch.cuda.is_available()
            if gpu:
                torch.cuda.set_device(local_rank)
            with peer_lost():
                torch.distributed.init_process_group(
                    "cpu:gloo,cuda:nccl" if gpu else "gloo",
                    store=_meet(rank, size),
                    rank=rank,
                    world_size=size,
                    timeout=TIMEOUT,
                )
        return cls(rank, size, local_rank)

    def leave(self) -> None:
        """End what `join` began, after the last common call.

        Threads of torch may still let go of its tensors then, for which they need Python: one that
        asks for it while the interpreter ends would end the process with SIGABRT.
        """
        if self.size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, to the leader; an empty list to the rest."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[T] | None = [value] * self.size if self.leads else None
        _wait(lambda: distributed.gather_object(value, values))
        return values or []

    def broadcast(self, value: T) -> T:
        """Return the leader's value to every process."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        _wait(lambda: distributed.broadcast_object_list(values))
        return values[0]

    def wait_for_leader(self) -> None:
        """Return once the leader's process has ended, which has the last things to do.

        Local modes end all containers of a job as soon as one has ended.
        """
        if self.leads or self.size == 1:
            return
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        _wait_until(lambda: not _answers(host, port), "the first process to finish", math.inf)
        time.sleep(1)  # its container ends a little later

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in at least one of the processes."""
        if self.size == 1:
            return flag
        import torch

        flags = torch.tensor(int(flag))
        _wait(lambda: torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX))
        return bool(flags)

    def send(self, array: NDArray[np.float32]) -> None:
        """Send an array to the leader, which must call `receive`."""
        import torch

        _wait(lambda: torch.distributed.send(torch.from_numpy(array), 0))

    def receive(self, shape: tuple[int, ...], rank: int) -> NDArray[np.float32]:
        """Return the array of this shape that the process `rank` sends to the leader."""
        import torch

        array = np.empty(shape, np.float32)
        _wait(lambda: torch.distributed.recv(torch.from_numpy(array), rank))
        return array


@contextmanager
def peer_lost() -> Iterator[None]:
    """Name the reason where a collective operation fails: another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            "another process of this job has ended or cannot be reached; the log and the failure "
            f"of the other hosts tell why ({str(error).splitlines()[0][:200]})"
        ) from error


def _meet(rank: int, size: int) -> Any:
    """Return torch's store once all processes are connected to it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank > 0:
        _wait_until(lambda: _answers(host, port), f"the first process (on {host})")
    store = TCPStore(host, port, size, rank == 0, TIMEOUT, wait_for_workers=False)
    store.set(str(rank), "")
    for other in map(str, range(size)):
        _wait_until(partial(store.check, [other]), f"process {other} (of {size}, counted from 0)")
    return store


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait_until(there: Callable[[], bool], what: str, patience: float | None = None) -> None:
    patience = PATIENCE if patience is None else patience
    started = told = time.monotonic()
    while not there():
        now = time.monotonic()
        if now - started > patience:
            raise PeerLost(
                f"{what} did not start within {patience / 60:.0f} minutes; the log and the "
                "failure of the other hosts tell why"
            )
        if now - told > INTERVAL:
            log.info("waiting for %s", what)
            told = now
        time.sleep(0.2)


def _wait(call: Callable[[], object]) -> None:
    """Wait in another thread: torch lets no signal interrupt the one that it is called in."""
    done = Future[None]()

    def run() -> None:
        try:
            call()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    with peer_lost():
        done.result()
    thread.join()
