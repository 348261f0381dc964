"""Every environment variable that the server reads, in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "SettingsError", "table"]

_VARIABLES = (
    # name, default, meaning
    ("SAGEMAKER_BASE_DIR", "/opt/ml", "where the directory `model` lies"),
    ("SAGEMAKER_BIND_TO_PORT", "8080", "the port"),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "100", "the largest body"),
    ("OPTML_HOST", "0.0.0.0", "the address to listen on"),
    ("OPTML_RUNTIME", "auto", "auto, openvino or torch"),
    ("OPTML_PRECISION", "auto", "auto, bf16 or fp32"),
)
_CHOICES = {
    "OPTML_RUNTIME": ("auto", "openvino", "torch"),
    "OPTML_PRECISION": ("auto", "bf16", "fp32"),
}


class SettingsError(Exception):
    """An environment variable has a value that is not allowed."""


@dataclass(frozen=True)
class Settings:
    """How to serve, from the environment."""

    model: Path
    host: str
    port: int
    max_body: int
    """Bytes."""
    runtime: str
    precision: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables; an empty one counts as not set.

        Raises:
            SettingsError: a value is not allowed, or a variable of ours is not known.
        """
        values = {name: environment.get(name) or default for name, default, _ in _VARIABLES}
        unknown = {name for name in environment if name.startswith("OPTML_")} - set(values)
        if unknown:
            known = ", ".join(name for name in values if name.startswith("OPTML_"))
            raise SettingsError(f"unknown variable {', '.join(sorted(unknown))}; known are {known}")
        for name, allowed in _CHOICES.items():
            if values[name] not in allowed:
                raise SettingsError(f"{name}={values[name]} is none of {', '.join(allowed)}")
        return cls(
            model=Path(values["SAGEMAKER_BASE_DIR"]) / "model",
            host=values["OPTML_HOST"],
            port=_number("SAGEMAKER_BIND_TO_PORT", values, 1, 65535),
            max_body=_number("SAGEMAKER_MAX_PAYLOAD_IN_MB", values, 1, 1024) * 1024 * 1024,
            runtime=values["OPTML_RUNTIME"],
            precision=values["OPTML_PRECISION"],
        )


def table() -> tuple[tuple[str, str, str], ...]:
    """Return name, default and meaning of every variable."""
    return _VARIABLES


def _number(name: str, values: Mapping[str, str], low: int, high: int) -> int:
    try:
        number = int(values[name])
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise SettingsError(f"{name}={values[name]} is no whole number from {low} to {high}")
    return number
