"""What Prometheus may collect at /metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from serve.batcher import Batcher, Executed

__all__ = [
    "CONTENT_TYPE",
    "IN_HAND",
    "answered",
    "batch_executed",
    "exposition",
    "refused",
    "watch_queue",
    "watch_refusals",
]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

_REQUESTS = Counter("optml_requests", "Requests by the status of their answers", ["status"])
_LATENCY = Histogram("optml_request_seconds", "From request to answer", buckets=_SECONDS)
_PHASES = Counter("optml_phase_seconds", "Where the time of requests went", ["phase"])
_PHASE = {name: _PHASES.labels(name) for name in ("tokenize", "queue", "model")}
_TEXTS = Counter("optml_texts", "Texts that were executed")
_TOKENS = Counter("optml_tokens", "Tokens that were executed")
_PADDED = Counter("optml_padded_tokens", "Tokens that were executed, padding included")
_BATCHES = Counter("optml_batches", "Batches that were executed")
_BUSY = Counter("optml_engine_seconds", "Time that the streams of the engine were busy")
_WAITING = Gauge(
    "optml_waiting_tokens", "Tokens that wait for the engine", multiprocess_mode="livesum"
)
_queues: WeakSet[Batcher[Any]] = WeakSet()
_elsewhere: list[Callable[[], int]] = []
IN_HAND = Gauge(
    "optml_requests_in_hand", "Requests that are being answered", multiprocess_mode="livesum"
)


def answered(status: int, seconds: float, phases: Mapping[str, float]) -> None:
    """Count a request."""
    _REQUESTS.labels(str(status)).inc()
    _LATENCY.observe(seconds)
    for phase, spent in phases.items():
        _PHASE[phase].inc(spent)


def refused(number: int = 1) -> None:
    """Count requests that were refused unread."""
    _REQUESTS.labels("503").inc(number)


def watch_refusals(newly: Callable[[], int]) -> None:
    """Have those count, too, that another process has refused since `newly` was last called."""
    _elsewhere.append(newly)


def batch_executed(batch: Executed) -> None:
    """Count a batch."""
    _TEXTS.inc(batch.texts)
    _TOKENS.inc(batch.tokens)
    _PADDED.inc(batch.padded)
    _BATCHES.inc()
    _BUSY.inc(batch.seconds)
    _count_waiting()


def watch_queue(batcher: Batcher[Any]) -> None:
    """Have the gauge of waiting tokens count those of a batcher, as long as it exists."""
    _queues.add(batcher)


def exposition() -> bytes:
    """Return all metrics in Prometheus's text format."""
    _count_waiting()
    for newly_refused in _elsewhere:
        refused(newly_refused())
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # see share_metrics
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _count_waiting() -> None:
    _WAITING.set(sum(batcher.waiting_tokens for batcher in list(_queues)))
