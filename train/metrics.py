"""Numbers that tell how a job goes: a line each in the log, and points for TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["METRIC_REGEX", "NAMES", "Metrics", "definitions"]

log = logging.getLogger(__name__)

METRIC_REGEX = r"\[metric\] {name}=([0-9.eE+-]+)"
"""The `Regex` of a metric definition, with the metric's name put in."""

NAMES = (
    "loss", "grad_norm", "learning_rate", "validation_loss",
    "validation_accuracy", "validation_macro_f1", "test_accuracy", "test_macro_f1",
)  # fmt: skip
"""What `train` reports. Each may be a tuning job's objective."""

Listener = Callable[[Mapping[str, float], int], None]
"""Called with the values by name, and with the step that they belong to."""


class Metrics:
    """Where the parts of a job report their numbers."""

    def __init__(self, tensorboard: Path | None = None) -> None:
        self.listeners: list[Listener] = []
        self._tensorboard = tensorboard
        self._writer: Any = None

    def report(self, values: Mapping[str, float], step: int = 0) -> None:
        """Print one line a metric, in the form that METRIC_REGEX finds, and keep the points."""
        for name, value in values.items():
            log.info("[metric] %s=%.6g", name, value)
        if self._tensorboard and self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard), flush_secs=10)
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name.replace("_", "/", 1), value, step)
            self._writer.flush()
        for listener in self.listeners:
            listener(values, step)


def definitions() -> list[dict[str, str]]:
    """Return the MetricDefinitions of a training job that runs this image."""
    return [{"Name": name, "Regex": METRIC_REGEX.format(name=name)} for name in NAMES]
