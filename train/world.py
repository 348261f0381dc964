"""The processes that work on one job together, through torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from train.errors import PeerLost

__all__ = ["World", "peer_lost"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among those of the job. Every process must make the same calls."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls) -> World:
        """Join the processes that `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` tell of."""
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
                torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        return cls(rank, size, local_rank)

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
        with peer_lost():
            distributed.gather_object(value, values)
        return values or []

    def broadcast(self, value: T) -> T:
        """Return the leader's value to every process."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        with peer_lost():
            distributed.broadcast_object_list(values)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in at least one of the processes."""
        if self.size == 1:
            return flag
        import torch

        flags = torch.tensor(int(flag))
        with peer_lost():
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags)


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
