"""Health checks and refusals while the server has more to do than it can.

The platform takes a container for dead whose /ping is not answered within 2 s, whatever else it
does. And who is refused should hear of it at once, to turn to another instance. Measured from a
client that opens a connection each time, as load balancers do, on the same cores as the server.
"""

from __future__ import annotations

import http.client
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from bench.serving import Unavailable
from bench.serving.load import driving
from bench.serving.servers import Server, post, running
from bench.serving.texts import texts

__all__ = ["pings"]

CLIENTS = 128
FLOOD = 1024
"""Twice as many clients as our server takes requests in hand."""
PROBES = 8
PING_PAUSE_S = 0.01
SETTLE_S = 3
"""Until the queue has filled."""
DRIVE_LIMIT_S = 3600
ANSWER_LIMIT_S = 300


def pings(
    data: Path, names: Sequence[str], sets: Sequence[str], seconds: int
) -> dict[str, dict[str, float] | str]:
    """Return percentiles of /ping under load, and of what requests get that come on top of it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * FLOOD, 2 * FLOOD))
    results: dict[str, dict[str, float] | str] = {}
    print(f"\n{'':52}{'number':>8}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'longest':>10}")
    for kind in sets:
        sent = texts(data, kind)
        for name in names:
            try:
                with running(name, data) as server:
                    if server.contender.ping is None:
                        raise Unavailable("it has no health check")
                    found = _under_load(server, sent, seconds)
            except Unavailable as reason:
                results[f"{kind}/{name}"] = str(reason)
                print(f"{name}: not available: {reason}", flush=True)
                continue
            for what, latencies in found.items():
                values = _percentiles(latencies)
                results[f"{kind}/{name}/{what}"] = values
                cells = "".join(f"{value:>10.1f}" for value in list(values.values())[1:])
                print(f"{f'{kind} {name} {what}':52}{len(latencies):>8}{cells}", flush=True)
    return results


def _under_load(server: Server, sent: Sequence[str], seconds: int) -> dict[str, list[float]]:
    """Return milliseconds, by what was asked and how it was answered."""
    found: dict[str, list[float]] = {}

    def add(what: str, answers: Iterable[tuple[str, float]]) -> None:
        for answer, latency in answers:
            found.setdefault(f"{what}: {answer}", []).append(latency)

    for clients in (CLIENTS, FLOOD):
        with driving(server, sent, clients, DRIVE_LIMIT_S):
            time.sleep(SETTLE_S)
            add(f"ping, {clients} clients", _repeat(partial(_ping, server), seconds, PING_PAUSE_S))
            if clients == FLOOD:
                with ThreadPoolExecutor(PROBES) as probes:
                    ask = partial(_invoke, server, sent[0])
                    asked = [probes.submit(_repeat, ask, seconds) for _ in range(PROBES)]
                    for probe in asked:
                        add(f"request, {clients} clients", probe.result())
    return found


def _repeat(ask: Callable[[], str], seconds: float, pause: float = 0) -> list[tuple[str, float]]:
    answers = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        started = time.perf_counter()
        answer = ask()
        answers.append((answer, (time.perf_counter() - started) * 1e3))
        time.sleep(pause)
    return answers


def _ping(server: Server) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("GET", str(server.contender.ping))
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _invoke(server: Server, text: str) -> str:
    try:
        status, _ = post(server.port, server.contender.route, server.contender.body(text))
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return str(status)


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    p50, p99, p999 = (float(np.percentile(latencies, percent)) for percent in (50, 99, 99.9))
    return {
        "number": len(latencies),
        "p50_ms": p50,
        "p99_ms": p99,
        "p99.9_ms": p999,
        "longest_ms": max(latencies),
    }
