"""The `/opt/ml` tree of a SageMaker training job.

Source: Amazon SageMaker developer guide, "How Amazon SageMaker provides training information" and
"How Amazon SageMaker processes training output".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError

__all__ = ["FAILURE_LIMIT", "Channel", "Job"]

log = logging.getLogger(__name__)

FAILURE_LIMIT = 1024
"""Characters of the failure file that become the job's FailureReason."""


@dataclass(frozen=True)
class Channel:
    """A part of the job's input: the files of a directory or, in Pipe mode, a fifo an epoch."""

    name: str
    path: Path
    """The directory; of a piped channel, what the names of its fifos begin with."""
    content_type: str | None = None
    piped: bool = False
    sharded: bool = False
    """Whether each host has a part of its own, possibly an empty one."""
    record_io: bool = False
    """Whether what comes through the fifos is wrapped in RecordIO."""

    def fifo(self, epoch: int) -> Path:
        """Return the fifo of an epoch; the platform makes it some time before it is written."""
        return self.path.with_name(f"{self.path.name}_{epoch}")


@dataclass(frozen=True)
class Job:
    """Where a job's input lies and where its output goes."""

    root: Path

    @classmethod
    def from_environment(cls) -> Job:
        """Use `/opt/ml`, or the directory that `SAGEMAKER_BASE_DIR` names."""
        return cls(Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml"))

    @property
    def model(self) -> Path:
        """What becomes model.tar.gz."""
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        """What the platform keeps while the job runs, and brings back when it starts again."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The default LocalPath of a TensorBoardOutputConfig."""
        return self.root / "output" / "tensorboard"

    @property
    def output_data(self) -> Path:
        """What becomes output.tar.gz."""
        return self.root / "output" / "data"

    @property
    def failure(self) -> Path:
        return self.root / "output" / "failure"

    def hyperparameters(self) -> dict[str, Any]:
        return self._config("hyperparameters.json")

    def resources(self) -> dict[str, Any]:
        """Return the hosts of the job, as the platform describes them."""
        return self._config("resourceconfig.json")

    def inputs(self) -> dict[str, Any]:
        """Return the channels of the job by name, as the platform describes them."""
        return self._config("inputdataconfig.json")

    def channel(self, *names: str) -> Channel | None:
        """Return the first channel of these names that the job has."""
        for name in names:
            declared = self._declared(name)
            path = self.root / "input" / "data" / name
            piped = declared.get("TrainingInputMode") == "Pipe" and not path.is_dir()
            sharded = declared.get("S3DistributionType") == "ShardedByS3Key"
            if path.is_dir() or piped or sharded:  # a host may have no directory for an empty part
                return Channel(
                    name,
                    path,
                    declared.get("ContentType"),
                    piped,
                    sharded,
                    declared.get("RecordWrapperType") == "RecordIO",
                )
        return None

    def channel_names(self) -> list[str]:
        data = self.root / "input" / "data"
        directories = {path.name for path in data.glob("*") if path.is_dir()}
        declared = self._config("inputdataconfig.json")
        return sorted(directories | {name for name in declared if self.channel(name)})

    def clear_failure(self) -> None:
        """Remove what an earlier attempt of the same job left behind."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.failure.unlink()

    def fail(self, reason: str) -> None:
        """Write the failure file, the cause first. What failed first is the cause: it is kept."""
        if self.failure.exists():
            return
        text = reason.encode("utf-8", "backslashreplace").decode()[:FAILURE_LIMIT]
        try:
            self.failure.parent.mkdir(parents=True, exist_ok=True)
            self.failure.write_text(text, encoding="utf-8")
        except OSError as error:  # the exit code still says that the job failed
            log.error("the failure file cannot be written: %s", error)

    def _declared(self, channel: str) -> dict[str, Any]:
        declared = self._config("inputdataconfig.json").get(channel)
        return declared if isinstance(declared, dict) else {}

    def _config(self, name: str) -> dict[str, Any]:
        """Read one of the job's configuration files; a missing one is empty."""
        path = self.root / "input" / "config" / name
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold a JSON object, not {type(values).__name__}")
        return values
