"""What spot interruptions cost a fine-tuning of the encoder in the image, one after another.

The job is stopped and started again as the platform does it: SIGTERM, SIGKILL 120 s later, a fresh
/opt/ml with nothing but the checkpoints. Every other time SIGKILL follows at once, as where a
machine is lost without notice. Each attempt is hit at a random moment after its first or second
checkpoint. An interruption may cost the steps since the last checkpoint and no more, and the model
at the end must be that of a job that nobody interrupted. Lost is what the log tells of: a killed
attempt may have taken further steps, fewer than there are between two checkpoints.

Usage: python -m bench.interruptions [--count 20] [--every 3] [--epochs 2]

Prints a table, and one JSON object as its last line. The exit status is 1 where more was lost, the
model is another one, or the job ended before it was interrupted as often.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from local_test.arguments import engine_for
from local_test.job import Job, Request
from local_test.launchers import Contained
from local_test.programs import Program, Surroundings

MESSAGES = Path(__file__).resolve().parents[1] / "local_test/data/messages.csv"

STARTED = "INFO hyperparameters: "
"""What every attempt begins to say."""


@dataclass
class Attempt:
    """What the log of one attempt tells."""

    begun: int = 0
    """The step of the checkpoint that it went on from."""
    saved: list[int] = field(default_factory=list)
    """The steps of its checkpoints."""
    reached: int = 0
    """The last step that it is known to have taken."""


class OneCore(Contained):
    """Containers of one core: on a busy machine two threads mostly wait for each other."""

    def start(self, surroundings: Surroundings, listener: Callable[[str], None]) -> Program:
        return super().start(replace(surroundings, options=["--cpus=1"]), listener)


class Log(io.StringIO):
    """The log of a job, which is interrupted at random moments while it grows."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.job: Job | None = None
        self.notices = [number % 2 == 0 for number in range(count)]
        """Of the interruptions to come, the next one last: whether it is announced."""
        self._random = random.Random(7)
        self._checkpoints = 0

    def write(self, text: str) -> int:
        if STARTED in text:
            self._checkpoints = self._random.choice((1, 2))
        if "checkpoint at step" in text and self.notices and self.job:
            self._checkpoints -= 1
            if not self._checkpoints:
                pause, notice = self._random.uniform(0, 3), self.notices.pop()
                threading.Timer(pause, self.job.interrupt, (notice,)).start()
        return super().write(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", default="optml-train-cpu:test")
    parser.add_argument("--count", type=int, default=20, help="interruptions")
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    parser.add_argument("--epochs", type=float, default=2, help="of 112 steps each")
    arguments = parser.parse_args()
    engine = engine_for(arguments.image)
    if engine is None:
        return 1
    settings = {
        "recipe": "finetune", "train_batch_size": "4", "max_length": "32",
        "epochs": str(arguments.epochs), "checkpoint_steps": str(arguments.every),
    }  # fmt: skip
    models = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in (("whole", 0), ("interrupted", arguments.count)):
            request = Request(
                name,
                Path(scratch, name),
                channels={"train": MESSAGES},
                hyperparameters=settings,
                checkpoints=Path(scratch, f"{name}-checkpoints"),
            )
            job, log = Job(request, OneCore(engine, arguments.image)), Log(count)
            log.job = job
            with contextlib.redirect_stdout(log):
                job.run()
            if job.code:
                sys.exit(log.getvalue())
            models[name] = load_file(request.output / "model/model.safetensors")
    difference = max(
        float(np.abs(tensor - models["whole"][name]).max())
        for name, tensor in models["interrupted"].items()
    )
    result = report(read(log.getvalue()), job, difference)
    return int(
        result["most_lost"] > arguments.every
        or result["largest_difference_of_a_weight"] > 0
        or result["interruptions"] < arguments.count
    )


def read(log: str) -> list[Attempt]:
    """Return what a log tells of each attempt."""
    attempts = []
    for part in log.split(STARTED)[1:]:
        attempt = Attempt()
        if begun := re.search(r"the checkpoint of step (\d+)", part):
            attempt.begun = int(begun[1])
        attempt.saved = [int(step) for step in re.findall(r"checkpoint at step (\d+)", part)]
        told = re.findall(r"steps: (\d+) of|at step (\d+)", part)
        attempt.reached = max([attempt.begun, *(int(a or b) for a, b in told)])
        attempts.append(attempt)
    return attempts


def report(attempts: Sequence[Attempt], job: Job, difference: float) -> dict[str, float]:
    interrupted = [status for status, _ in job.transitions].count("Interrupted")
    lost = []
    print(f"{'attempt':>7} {'from step':>10} {'checkpoints':>12} {'to step':>8} {'lost':>5}")
    for number, attempt in enumerate(attempts, 1):
        cost = attempt.reached - attempts[number].begun if number < len(attempts) else 0
        lost.append(cost)
        saved = len(attempt.saved)
        print(f"{number:7} {attempt.begun:10} {saved:12} {attempt.reached:8} {cost:5}")
    result = {
        "interruptions": interrupted,
        "attempts_seen": len(attempts),
        "steps": attempts[-1].reached,
        "most_lost": max(lost),
        "lost": sum(lost),
        "largest_difference_of_a_weight": difference,
        "billable_s": round(job.billable_seconds),
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(main())
