"""A stand-in for `train`, run as `python -m tests.local_test.stand_in`: it does what `do` says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

base = Path(os.environ["SAGEMAKER_BASE_DIR"])
asked = json.loads((base / "input/config/hyperparameters.json").read_text())


def succeed() -> int:
    print("loss=0.5; rate=1e-3", flush=True)
    print("loss=0.25; rate=unknown", flush=True)
    (base / "model/head").mkdir()
    (base / "model/head/weights").write_text("w")
    (base / "output/data/report").write_text("r")
    return 0


def fail() -> int:
    (base / "output/failure").write_text("ValueError: " + "é" * 2000)
    return 3


def crash() -> int:
    return 7


def count() -> int:
    """Add one to the checkpoint at every start; end at the third, and else wait for SIGTERM."""
    path = base / "checkpoints/count"
    number = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(number))
    print(f"start {number}", flush=True)
    (base / f"model/{number}").touch()
    return 0 if number == 3 else wait()


def wait() -> int:
    """Save a model on SIGTERM."""

    def leave(*_: object) -> None:
        (base / "model/stopped").touch()
        sys.exit(4)

    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    time.sleep(60)
    return 1


def ignore() -> int:
    """Ignore SIGTERM, with a child that would outlive it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with subprocess.Popen(["sleep", "60"]) as child:
        (base / "model/child").write_text(str(child.pid))
        print("ready", flush=True)
        time.sleep(60)
    return 1


def pipe() -> int:
    """Read two epochs and the beginning of a third."""
    for epoch in range(3):
        path = base / f"input/data/train_{epoch}"
        while not path.exists():
            time.sleep(0.01)
        with path.open("rb") as fifo:
            content = fifo.read(5 if epoch == 2 else -1)
        (base / f"model/{epoch}").write_bytes(content)
    return 0


PROGRAMS = {
    program.__name__: program for program in (succeed, fail, crash, count, wait, ignore, pipe)
}

if __name__ == "__main__":
    sys.exit(PROGRAMS[asked.get("do", "succeed")]())
