"""Model directories that differ from a trained one only in what a test looks at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from textmodel.artifact import Artifact

MB = 2**20


def relabelled(tree: Path, directory: Path, *labels: str) -> Path:
    """Copy the model of an /opt/ml tree; its answers have other labels."""
    shutil.copytree(tree / "model", directory)
    manifest = json.loads((directory / "optml.json").read_text())
    (directory / "optml.json").write_text(json.dumps(manifest | {"labels": labels}))
    return directory


def with_its_own_encoder(tree: Path, directory: Path, number: int = 1) -> Path:
    """Copy the model of an /opt/ml tree; its encoder differs from that of other numbers."""
    shutil.copytree(tree / "model", directory)
    with (directory / "openvino/encoder.bin").open("r+b") as weights:
        weights.seek(4000)
        weights.write(bytes([number]))  # the lowest bits of a weight
    Artifact.open(directory).seal()
    return directory
