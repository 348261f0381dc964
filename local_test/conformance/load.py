"""Many clients at once, and what pings and connections take meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from local_test.conformance.client import Answer
from local_test.conformance.footprint import Footprint
from local_test.conformance.samples import Sample
from local_test.conformance.server import Server
from local_test.exchange import ACCEPT_LIMIT
from local_test.hosting import PING_LIMIT

__all__ = ["CLIENTS", "Load", "all_at_once", "load"]

CLIENTS = 64
SECONDS = 4.0
PAUSE = 0.1


@dataclass
class Load:
    """What clients, pings and connections saw."""

    answers: list[Answer] = field(default_factory=list)
    pings: list[Answer] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)
    """Seconds until a connection was accepted; infinite where it was not."""
    footprint: Footprint | None = None
    """What the server took meanwhile, if that can be seen."""

    @property
    def late(self) -> list[float]:
        """Connections that took longer than they may."""
        return [seconds for seconds in self.connections if seconds > ACCEPT_LIMIT]

    @property
    def lost(self) -> list[Answer]:
        """Pings that failed or took longer than they may."""
        return [ping for ping in self.pings if ping.status != 200]


def load(server: Server, sample: Sample, weigh: Callable[[Server], Footprint | None]) -> Load:
    """Let each of many clients ask again and again for some seconds, ping all the while, weigh."""
    seen = Load()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            seen.answers.append(server.invoke(sample))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        seen.connections.append(_connect(server.place))
        seen.pings.append(server.ping())
        time.sleep(PAUSE)
    seen.footprint = weigh(server)
    over.set()
    for thread in threads:
        thread.join()
    return seen


def all_at_once(server: Server, samples: list[Sample], rounds: int) -> list[tuple[Sample, Answer]]:
    """Ask all samples at the same time, each `rounds` times; return what each got."""
    wanted = [sample for _ in range(rounds) for sample in samples]
    with ThreadPoolExecutor(len(samples)) as clients:
        return list(zip(wanted, clients.map(server.invoke, wanted), strict=True))


def _connect(place: tuple[str, int]) -> float:
    started = time.monotonic()
    try:
        socket.create_connection(place, timeout=PING_LIMIT).close()
    except OSError:
        return float("inf")
    return time.monotonic() - started
