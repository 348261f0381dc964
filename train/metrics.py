"""Numbers that tell how a job goes: a line each in the log, and points for TensorBoard."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from train.hyperparameters import Hyperparameters

__all__ = [
    "METRIC_REGEX",
    "Metrics",
    "check_objective",
    "definitions",
    "names",
]

log = logging.getLogger(__name__)

METRIC_REGEX = r"\[metric\] {name}=([0-9.eE+-]+)"
"""The `Regex` of a metric definition, with the metric's name put in."""

FITTING: Mapping[str, tuple[str, ...]] = {
    "forest": ("oob_accuracy",),
    "logistic": (),
    "finetune": (
        "loss", "grad_norm", "learning_rate",
        "validation_loss", "validation_accuracy", "validation_macro_f1",
    ),
}  # fmt: skip
"""What each recipe reports while it fits."""

OPTIONAL = {"oob_accuracy": "oob_score", "int8_agreement": "int8"}
"""What is reported only where a hyperparameter asks for it, and which."""

MEASURED = ("accuracy", "macro_f1", "micro_f1")
"""What is reported of the finished model, as `<split>_<metric>`."""

SPLITS = ("validation", "test")

FLUSH = 10.0
"""Seconds after which the points so far are on the disk."""

Listener = Callable[[Mapping[str, float], int], None]
"""Called with the values by name, and with the step that they belong to."""


class Metrics:
    """Where the parts of a job report their numbers. Ends with its `with` block."""

    def __init__(self, tensorboard: Path | None = None) -> None:
        self.listeners: list[Listener] = []
        self._step = 0
        self._events = _Events(tensorboard) if tensorboard else None

    def report(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Print one line a metric, in the form that METRIC_REGEX finds, and keep the points.

        Without a step, the values belong to the last one there was.

        What is not a finite number is told in words: the platform would take the `-` of `-inf`, or
        nothing at all, for a number.
        """
        self._step = step = self._step if step is None else step
        for name, value in values.items():
            if math.isfinite(value):
                log.info("[metric] %s=%.6g", name, value)
            else:
                log.warning("the metric %s is %s at step %d, not a number", name, value, step)
        if self._events:
            self._events.write(values, step)
        for listener in self.listeners:
            listener(values, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._events:
            self._events.close()


def names(recipes: Iterable[str] = FITTING, splits: Collection[str] = SPLITS) -> list[str]:
    """Return the names of what these recipes report where these splits are held out."""
    fitting = [name for recipe in recipes for name in FITTING[recipe]]
    measured = [f"{split}_{metric}" for split in SPLITS for metric in MEASURED]
    measured.append("int8_agreement")
    missing = tuple(f"{split}_" for split in SPLITS if split not in splits)
    return [name for name in dict.fromkeys(fitting + measured) if not name.startswith(missing)]


def definitions() -> list[dict[str, str]]:
    """Return the MetricDefinitions of a training job that runs this image."""
    return [{"Name": name, "Regex": METRIC_REGEX.format(name=name)} for name in names()]


def check_objective(
    hyperparameters: Mapping[str, Any], settings: Hyperparameters, splits: Collection[str]
) -> None:
    """Warn where a tuning job waits for a metric that this job does not report."""
    objective = str(hyperparameters.get("_tuning_objective_metric") or "").strip('"')
    reported = names([settings.recipe], splits)
    reported = [
        name for name in reported if name not in OPTIONAL or getattr(settings, OPTIONAL[name])
    ]
    if objective and objective not in reported:
        log.warning(
            "the tuning job's objective %s is none of what this job reports (%s): unless its Regex "
            "finds one of these, the tuning job gets no value from this job",
            objective, ", ".join(reported),
        )  # fmt: skip


class _Events:
    """A TensorBoard event file, written by whoever reports: there is no thread that can hang."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None
        self._flushed = time.monotonic()
        self._broken = False

    def write(self, values: Mapping[str, float], step: int) -> None:
        if self._broken:
            return
        from tensorboardX.proto.event_pb2 import Event  # slow to import
        from tensorboardX.proto.summary_pb2 import Summary

        try:
            if self._writer is None:
                self._open()
            now = time.time()
            for name, value in values.items():
                points = [Summary.Value(tag=_tag(name), simple_value=value)]
                event = Event(wall_time=now, step=step, summary=Summary(value=points))
                self._writer.write(event.SerializeToString())
            if time.monotonic() - self._flushed > FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._broken = True
            log.warning("no more points for TensorBoard: %s", error)

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            log.warning("the last points for TensorBoard are lost: %s", error)

    def _open(self) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event

        self._directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard finds its files by this name, and sorts them by the time in it.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(self._directory / name))
        first = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._writer.write(first.SerializeToString())
        self._writer.flush()


def _tag(name: str) -> str:
    """Return TensorBoard's name of a metric, where what stands before the slash is a group."""
    split, _, metric = name.partition("_")
    return f"{split}/{metric}" if split in SPLITS else f"train/{name}"
