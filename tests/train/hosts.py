"""Jobs that consist of many small windows, as the only host or as one of several."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.train.trees import REPOSITORY, as_csv, make_tree, messages

PROGRAM = """
import runpy
import textmodel.classifier
import train.recipes.embeddings
textmodel.classifier.WINDOW_TEXTS = 32
train.recipes.embeddings.WORTH_KEEPING = 0
runpy.run_module("train.worker", run_name="__main__")
"""


class Host:
    """An /opt/ml tree, and the process that works on it."""

    def __init__(
        self, root: Path, encoder: Path, recipe: str, rows: int = 300, **hyperparameters: str
    ) -> None:
        self.root = root
        data = messages(0, 400)
        train = [
            [f"{text} {number}", label]
            for number in range(rows)
            for text, label in [data[number % len(data)]]
        ]
        channels = {"train": as_csv(train), "test": as_csv(messages(400, 420))}
        make_tree(root, channels, {"recipe": recipe, "model_name": str(encoder)} | hyperparameters)

    def start(self, rank: int = 0, size: int = 1, port: int = 0) -> subprocess.Popen[str]:
        """Start the job as the process `rank` of `size`, which meet on a port of this machine."""
        place = {
            "RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": 1,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=REPOSITORY,
            env=os.environ
            | {"SAGEMAKER_BASE_DIR": str(self.root)}
            | {name: str(value) for name, value in place.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def failure(self) -> str:
        return (self.root / "output/failure").read_text(encoding="utf-8")

    @property
    def model(self) -> dict[str, bytes]:
        """The content of every file of the model, by path."""
        model = self.root / "model"
        return {
            path.relative_to(model).as_posix(): path.read_bytes()
            for path in sorted(model.rglob("*"))
            if path.is_file()
        }

    @property
    def kept(self) -> list[Path]:
        """The checkpoints of embeddings."""
        return sorted((self.root / "checkpoints").glob("*/embeddings-*"))

    def wait_for_checkpoints(self, number: int, process: subprocess.Popen[str]) -> None:
        while len(self.kept) < number:
            assert process.poll() is None, finish(process)
            time.sleep(0.005)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and log."""
    with process:
        log, _ = process.communicate(timeout=120)
    return process.returncode, log


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
