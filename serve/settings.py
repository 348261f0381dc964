"""Every environment variable that the server reads, in this one place."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Settings", "SettingsError", "table"]

_VARIABLES = (
    # name, default, meaning
    ("SAGEMAKER_BASE_DIR", "/opt/ml", "where the directory `model` lies"),
    ("SAGEMAKER_BIND_TO_PORT", "8080", "the port"),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "100", "the largest body"),
    ("SAGEMAKER_BATCH", "false", "true in a batch transform job, as the platform sets it"),
    (
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        "auto",
        "processes with the model; auto: one, and of models without code one for each 4 cores",
    ),
    ("SAGEMAKER_PROGRAM", "inference.py", "the file of your own inference code"),
    ("SAGEMAKER_SUBMIT_DIRECTORY", "code", "its directory, absolute or in the model's"),
    (
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        "application/json",
        "what your own code answers with, where a client accepts anything",
    ),
    ("HF_TASK", "auto", "of a plain Hugging Face model: text-classification or feature-extraction"),
    ("SAGEMAKER_MULTI_MODEL", "false", "true on a multi-model endpoint, as the platform sets it"),
    ("OPTML_HOST", "0.0.0.0", "the address to listen on"),
    ("OPTML_RUNTIME", "auto", "auto, openvino or torch"),
    ("OPTML_PRECISION", "auto", "auto, int8, bf16 or fp32"),
    ("OPTML_TIMEOUT", "60", "seconds in which a request is answered or refused; 0: any number"),
    ("OPTML_MAX_REQUESTS", "512", "requests in hand at a time; one more is refused"),
    ("OPTML_MAX_TOKENS", "1000000", "tokens that may wait for the model; more are refused"),
    ("OPTML_HANDLER_THREADS", "1", "requests that your own code answers at a time"),
    (
        "OPTML_MODELS_EVICT",
        "false",
        "true: a model that does not fit takes the memory of idle ones",
    ),
    ("OPTML_ACCESS_LOG", "auto", "all, or auto: a line for each that fails or has an inference id"),
)
_CHOICES = {
    "SAGEMAKER_BATCH": ("false", "true"),
    "SAGEMAKER_MULTI_MODEL": ("false", "true"),
    "OPTML_RUNTIME": ("auto", "openvino", "torch"),
    "OPTML_PRECISION": ("auto", "int8", "bf16", "fp32"),
    "OPTML_MODELS_EVICT": ("false", "true"),
    "OPTML_ACCESS_LOG": ("auto", "all"),
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
    batch: bool
    """Whether a batch transform job sends the requests."""
    sdk_local_mode: bool
    """Whether that job is one of SDK 2's local mode, which the variable's capital letter tells."""
    runtime: str
    precision: str
    workers: int | None
    """Processes with the model; None for as many as the machine is good for."""
    timeout: float
    """Seconds in which a request is answered or refused; infinite in batch transform jobs."""
    max_requests: int
    max_tokens: int
    log_all: bool
    code: Path
    """The directory of the user's own code, absolute or in that of the model."""
    program: str
    """The file of that code."""
    program_required: bool
    """Whether there has to be one, because it was asked for by name."""
    default_accept: str
    handler_threads: int
    task: str | None
    """What a plain Hugging Face directory is to be used for; None for what it says by itself."""
    multi_model: bool
    """Whether models come and go at /models, instead of the one in `model`."""
    evict: bool
    """Whether a model that does not fit into memory takes that of idle ones."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables; an empty one counts as not set.

        Raises:
            SettingsError: a value is not allowed, or a variable of ours is not known.
        """
        values = {name: environment.get(name) or default for name, default, _ in _VARIABLES}
        values["SAGEMAKER_BATCH"] = values["SAGEMAKER_BATCH"].lower()  # local mode sends True
        values["SAGEMAKER_MULTI_MODEL"] = values["SAGEMAKER_MULTI_MODEL"].lower()
        unknown = {name for name in environment if name.startswith("OPTML_")} - set(values)
        if unknown:
            known = ", ".join(name for name in values if name.startswith("OPTML_"))
            raise SettingsError(f"unknown variable {', '.join(sorted(unknown))}; known are {known}")
        for name, allowed in _CHOICES.items():
            if values[name] not in allowed:
                raise SettingsError(f"{name}={values[name]} is none of {', '.join(allowed)}")
        batch = values["SAGEMAKER_BATCH"] == "true"
        timeout = _number("OPTML_TIMEOUT", values, 0, 3600)
        if batch and not environment.get("OPTML_TIMEOUT"):
            timeout = 0
        return cls(
            model=Path(values["SAGEMAKER_BASE_DIR"]) / "model",
            host=values["OPTML_HOST"],
            port=_number("SAGEMAKER_BIND_TO_PORT", values, 1, 65535),
            max_body=_number("SAGEMAKER_MAX_PAYLOAD_IN_MB", values, 1, 1024) * 1024 * 1024,
            batch=batch,
            sdk_local_mode=environment.get("SAGEMAKER_BATCH") == "True",
            runtime=values["OPTML_RUNTIME"],
            precision=values["OPTML_PRECISION"],
            workers=None
            if values["SAGEMAKER_MODEL_SERVER_WORKERS"] == "auto"
            else _number("SAGEMAKER_MODEL_SERVER_WORKERS", values, 1, 64),
            timeout=timeout or math.inf,
            max_requests=_number("OPTML_MAX_REQUESTS", values, 1, 10_000),
            max_tokens=_number("OPTML_MAX_TOKENS", values, 1, 2**40),
            log_all=values["OPTML_ACCESS_LOG"] == "all",
            code=_directory(values["SAGEMAKER_SUBMIT_DIRECTORY"]),
            program=values["SAGEMAKER_PROGRAM"],
            program_required=bool(environment.get("SAGEMAKER_PROGRAM")),
            default_accept=values["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"],
            handler_threads=_number("OPTML_HANDLER_THREADS", values, 1, 64),
            task=None if values["HF_TASK"] == "auto" else values["HF_TASK"],
            multi_model=values["SAGEMAKER_MULTI_MODEL"] == "true",
            evict=values["OPTML_MODELS_EVICT"] == "true",
        )

    def for_one_of(self, workers: int) -> Settings:
        """Return those of one worker process: its part of what all together may have in hand."""
        return replace(
            self,
            workers=workers,
            max_requests=math.ceil(self.max_requests / workers),
            max_tokens=math.ceil(self.max_tokens / workers),
        )


def table() -> tuple[tuple[str, str, str], ...]:
    """Return name, default and meaning of every variable."""
    return _VARIABLES


def _directory(value: str) -> Path:
    """Return a directory; where the SDK names an archive in S3, the model has the code in it."""
    return Path("code" if value.startswith("s3://") else value.removeprefix("file://"))


def _number(name: str, values: Mapping[str, str], low: int, high: int) -> int:
    try:
        number = int(values[name])
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise SettingsError(f"{name}={values[name]} is no whole number from {low} to {high}")
    return number
