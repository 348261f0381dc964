"""The hosts of a job, and the place of each process among them.

Source: Amazon SageMaker developer guide, "How Amazon SageMaker provides training information",
section "Distributed training configuration".
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError

__all__ = ["Cluster", "processes_per_host"]

log = logging.getLogger(__name__)

PORT = 7777
"""Where the first process listens for the others; the port of AWS's own containers."""
PATIENCE = 15 * 60.0
"""Seconds to wait until every host's name resolves."""


@dataclass(frozen=True)
class Cluster:
    """The hosts in the order of their ranks, and how many processes each one runs."""

    hosts: tuple[str, ...]
    current_host: str
    interface: str | None
    processes_per_host: int

    @classmethod
    def of(cls, resources: Mapping[str, Any], processes_per_host: int) -> Cluster:
        """Read what `resourceconfig.json` holds; every key of it may be missing.

        Raises:
            UserError: the current host is not among the hosts.
        """
        current = str(resources.get("current_host") or "algo-1")
        # The platform sorts them as texts (algo-10 before algo-2), but not in every list.
        hosts = tuple(sorted(map(str, resources.get("hosts") or [current])))
        if current not in hosts:
            raise UserError(
                f"resourceconfig.json: current_host {current!r} is none of the hosts "
                f"{', '.join(hosts)}"
            )
        interface = resources.get("network_interface_name")
        return cls(hosts, current, interface, processes_per_host)

    @property
    def size(self) -> int:
        """How many processes work on the job, over all hosts."""
        return len(self.hosts) * self.processes_per_host

    def environment(self, local_rank: int) -> dict[str, str]:
        """Return what torch.distributed reads to join as the `local_rank`-th process here.

        A single process has nobody to join, and is not told of the others.
        """
        return self.torchrun(local_rank) if self.size > 1 else {}

    def torchrun(self, local_rank: int) -> dict[str, str]:
        """Return what `torchrun` sets for the `local_rank`-th process of this host."""
        host_rank = self.hosts.index(self.current_host)
        variables = {
            "RANK": str(host_rank * self.processes_per_host + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.processes_per_host),
            "MASTER_ADDR": self.hosts[0] if len(self.hosts) > 1 else "127.0.0.1",
            "MASTER_PORT": str(PORT),
        }
        # Some local modes name an interface that the container does not have.
        if len(self.hosts) > 1 and self.interface and _has_interface(self.interface):
            variables |= {
                "NCCL_SOCKET_IFNAME": self.interface,
                "GLOO_SOCKET_IFNAME": self.interface,
            }
        return variables

    def wait_for_peers(self) -> None:
        """Return once the name of every host resolves: some hosts start later than others.

        Raises:
            UserError: one of them did not for PATIENCE seconds.
        """
        deadline = time.monotonic() + PATIENCE
        for host in self.hosts if len(self.hosts) > 1 else ():
            pause = 0.1
            while not _resolves(host):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"the name of host {host} did not resolve for {PATIENCE / 60:.0f} minutes; "
                        "did it start?"
                    )
                if pause == 0.1:
                    log.info("waiting for host %s", host)
                time.sleep(pause)
                pause = min(2 * pause, 5.0)


def processes_per_host() -> int:
    """Return how many processes this host should run: one for each GPU, or one."""
    if not Path("/dev/nvidiactl").exists():  # spares CPU hosts the seconds of importing torch
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, PORT)
    except OSError:
        return False
    return True


def _has_interface(name: str) -> bool:
    return Path("/sys/class/net", name).exists()
