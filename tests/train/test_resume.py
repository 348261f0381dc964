"""A fine-tuning job that is stopped and killed at random moments, and started again each time.

`OPTML_KILLS` sets how often, `OPTML_KILLS_ENCODER` the encoder (all-MiniLM-L6-v2, say).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.train.trees import as_csv, make_tree, messages, start, train
from textmodel.classifier import load_classifier

KILLS = int(os.environ.get("OPTML_KILLS", "4"))
INTERVAL = 6
"""Steps between two checkpoints."""


def make_job(root: Path, encoder: str) -> Path:
    return make_tree(
        root,
        {"train": as_csv(messages(0, 160)), "validation": as_csv(messages(160, 200))},
        {
            "recipe": "finetune", "model_name": encoder, "epochs": "8", "train_batch_size": "16",
            "learning_rate": "1e-4", "checkpoint_steps": str(INTERVAL), "eval_steps": "20",
        },
    )  # fmt: skip


def worker_of(supervisor: int) -> int | None:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(children[0]) if children else None


def interrupt(root: Path, generator: random.Random) -> tuple[int, str, float]:
    """Start the job, hit it at a random moment; return exit code, log and seconds until its end.

    The log is followed to a checkpoint or two, or nowhere: then the libraries may still load.
    """
    checkpoints = generator.choice((0, 1, 1, 2))
    pause = generator.uniform(0, 0.3 if checkpoints else 6)
    log = ""
    with start(root) as process:
        assert process.stdout
        while checkpoints and (line := process.stdout.readline()):
            log += line
            checkpoints -= "checkpoint at step" in line
        time.sleep(pause)
        hit = time.monotonic()
        if generator.random() < 0.5:
            process.send_signal(signal.SIGTERM)
        elif worker := worker_of(process.pid):  # as the kernel does where memory runs out
            os.kill(worker, signal.SIGKILL)
        log += process.communicate(timeout=60)[0]
    return process.returncode, log, time.monotonic() - hit


def steps(log: str) -> list[int]:
    """Return the step that the job went on from, and those of its checkpoints."""
    begun = re.search(r"the checkpoint of step (\d+)", log)
    saved = re.findall(r"checkpoint at step (\d+)", log)
    return [int(begun[1]) if begun else 0, *map(int, saved)]


def test_job_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    encoder = os.environ.get("OPTML_KILLS_ENCODER", str(tiny_encoder))
    whole, killed = make_job(tmp_path / "whole", encoder), make_job(tmp_path / "killed", encoder)
    code, log = train(whole)
    assert code == 0, log
    generator = random.Random(7)
    reached = 0
    for _ in range(KILLS):
        code, log, seconds = interrupt(killed, generator)
        assert code in (0, 137, 143), log
        assert "Traceback" not in log
        assert seconds < 15, log
        begun, *saved = steps(log)
        if saved:  # it may be sealed without having been told of
            assert reached <= begun <= reached + INTERVAL, log
        assert all(np.diff([begun, *saved]) <= INTERVAL), log
        if "stopped (SIGTERM)" in log:
            assert code == 0
            assert load_classifier(killed / "model").predict(["fire"]).shape == (1, 2)
        reached = max(reached, *steps(log))
    assert reached > 0
    code, log = train(killed)
    assert code == 0, log
    assert reached <= steps(log)[0] <= reached + INTERVAL
    expected = load_file(whole / "model/model.safetensors")
    for name, tensor in load_file(killed / "model/model.safetensors").items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-5)


def test_resumed_job_that_is_stopped_while_it_reads_keeps_the_model_of_its_checkpoint(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    root = make_job(tmp_path, str(tiny_encoder))
    with start(root) as process:
        assert process.stdout
        while "checkpoint at step" not in process.stdout.readline():
            pass
        process.kill()
    channel = root / "input/data/train"
    rows = (channel / "data.csv").read_bytes()
    (channel / "data.csv").unlink()
    channel.rmdir()
    inputs = {"train": {"TrainingInputMode": "Pipe", "ContentType": "text/csv"}}
    (root / "input/config/inputdataconfig.json").write_text(json.dumps(inputs))
    with start(root) as process:
        assert process.stdout
        while "waiting: the pipe" not in (log := process.stdout.readline()):
            assert log
        process.send_signal(signal.SIGTERM)
        os.mkfifo(channel.with_name("train_0"))
        channel.with_name("train_0").write_bytes(rows)
        log, _ = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "going on from the checkpoint of step" in log
    assert "stopped (SIGTERM)" in log
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)
