"""Small `/opt/ml` trees, and the program `train` run on them as the platform runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

Rows = Sequence[Sequence[str]]


def messages(start: int, stop: int) -> list[list[str]]:
    """Return rows of the demo data: text and label (disaster, other)."""
    with (REPOSITORY / "local_test/data/messages.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1 + start : 1 + stop]


def as_csv(rows: Rows, header: Sequence[str] = ("text", "label")) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return file.getvalue()


def make_tree(
    root: Path,
    channels: Mapping[str, str | Mapping[str, str | bytes]],
    hyperparameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """Write a job's input below `root`: each channel as one CSV text, or as files by name."""
    for channel, files in channels.items():
        directory = root / "input/data" / channel
        directory.mkdir(parents=True)
        for name, content in ({"data.csv": files} if isinstance(files, str) else files).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            (directory / name).write_bytes(data)
    for name, values in (("hyperparameters", hyperparameters), ("inputdataconfig", inputs)):
        if values is not None:
            (root / "input/config").mkdir(parents=True, exist_ok=True)
            (root / "input/config" / f"{name}.json").write_text(json.dumps(values))
    return root


def start(root: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m train` on a tree, its standard output and error in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "train"],
        cwd=REPOSITORY,
        env=os.environ | {"SAGEMAKER_BASE_DIR": str(root)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(root: Path, **environment: str) -> tuple[int, str]:
    """Run `python -m train` on a tree to its end; return the exit code and the log."""
    with start(root, **environment) as process:
        output, _ = process.communicate(timeout=120)
    return process.returncode, output


def files_of(directory: Path) -> set[str]:
    """Return every path below a directory, relative to it."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
