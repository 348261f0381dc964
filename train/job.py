"""The `/opt/ml` tree of a SageMaker training job.

Source: Amazon SageMaker developer guide, "How Amazon SageMaker provides training information" and
"How Amazon SageMaker processes training output".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError

__all__ = ["FAILURE_LIMIT", "Job"]

FAILURE_LIMIT = 1024
"""Characters of the failure file that become the job's FailureReason."""


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
    def output_data(self) -> Path:
        """What becomes output.tar.gz."""
        return self.root / "output" / "data"

    @property
    def failure(self) -> Path:
        return self.root / "output" / "failure"

    def hyperparameters(self) -> dict[str, Any]:
        return self._config("hyperparameters.json")

    def channel(self, *names: str) -> Path | None:
        """Return the directory of the first channel of these names that the job has."""
        for name in names:
            directory = self.root / "input" / "data" / name
            if directory.is_dir():
                return directory
        return None

    def channel_names(self) -> list[str]:
        data = self.root / "input" / "data"
        return sorted(path.name for path in data.glob("*") if path.is_dir())

    def content_type(self, channel: str) -> str | None:
        """Return the ContentType that the job declares for a channel."""
        declared = self._config("inputdataconfig.json").get(channel)
        return declared.get("ContentType") if isinstance(declared, dict) else None

    def fail(self, reason: str) -> None:
        """Write the failure file, the cause first."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(reason[:FAILURE_LIMIT], encoding="utf-8")

    def _config(self, name: str) -> dict[str, Any]:
        """Read one of the job's configuration files; a missing one is empty."""
        path = self.root / "input" / "config" / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold a JSON object, not {type(values).__name__}")
        return values
