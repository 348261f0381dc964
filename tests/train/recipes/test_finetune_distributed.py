"""Fine-tuning with two processes, each on an `/opt/ml` of its own, as on two hosts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.textmodel.encoders import make_encoder
from tests.train.trees import REPOSITORY, as_csv, files_of, make_tree, messages, train

Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder without dropout, which two processes would draw differently."""
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_encoder(tmp_path_factory.mktemp("encoder"), **none)


def make_job(root: Path, encoder: Path, **more: str) -> Path:
    return make_tree(
        root,
        {"train": as_csv(messages(0, 128)), "validation": as_csv(messages(128, 160))},
        {
            "recipe": "finetune", "model_name": str(encoder), "train_batch_size": "16",
            "learning_rate": "1e-3", "precision": "fp32", "checkpoint_steps": "2",
        } | more,
    )  # fmt: skip


@contextmanager
def running(roots: list[Path]) -> Iterator[list[Process]]:
    """Start a process on each tree, with what the supervisors of so many hosts would tell it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(roots)),
        "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "train.worker"],
            cwd=REPOSITORY,
            env=os.environ | world | {"RANK": str(rank), "SAGEMAKER_BASE_DIR": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, root in enumerate(roots)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for(process: Process, what: str) -> str:
    assert process.stdout
    log = ""
    for line in process.stdout:
        log += line
        if what in line:
            break
    return log


def ends(processes: list[Process]) -> tuple[list[int], list[str]]:
    logs = [process.communicate(timeout=90)[0] for process in processes]
    return [process.returncode for process in processes], logs


def test_two_processes_make_the_model_of_one_even_if_they_are_stopped(
    tmp_path: Path, encoder: Path
) -> None:
    alone = make_job(tmp_path / "alone", encoder)
    code, log = train(alone)
    assert code == 0, log
    hosts = [make_job(tmp_path / name, encoder) for name in ("algo-1", "algo-2")]
    with running(hosts) as processes:
        begun = wait_for(processes[0], "checkpoint at step")
        processes[1].send_signal(signal.SIGTERM)  # one of them is told; both stop
        codes, logs = ends(processes)
    assert codes == [0, 0], begun + "\n".join(logs)
    assert "stopped" in logs[0], begun + "\n".join(logs)
    assert (hosts[0] / "model/optml.json").exists()
    with running(hosts) as processes:
        codes, logs = ends(processes)
    assert codes == [0, 0], "\n".join(logs)
    steps = {re.search(r"going on from the checkpoint of step (\d+) of 24", log) for log in logs}
    assert len({found and found[1] for found in steps}) == 1
    assert None not in steps
    expected = load_file(alone / "model/model.safetensors")
    for name, tensor in load_file(hosts[0] / "model/model.safetensors").items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-3)
    assert all(re.search(" INFO | WARNING rule ", line) for line in "".join(logs).splitlines())
    assert "[metric]" not in logs[1]
    assert files_of(hosts[1]).isdisjoint({"model", "checkpoints", "output"})


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_layers_without_gradients_hold_up_nobody(
    frozen: str, tmp_path: Path, encoder: Path
) -> None:
    more = {"head": "bilstm", "freeze_encoder": frozen, "epochs": "1"}
    hosts = [make_job(tmp_path / name, encoder, **more) for name in ("algo-1", "algo-2")]
    with running(hosts) as processes:
        codes, logs = ends(processes)
    assert codes == [0, 0], "\n".join(logs)
    assert (hosts[0] / "model/head/bilstm.safetensors").exists()


@pytest.mark.parametrize("survivor", [0, 1])
def test_process_whose_peer_is_killed_ends_and_says_so(
    survivor: int, tmp_path: Path, encoder: Path
) -> None:
    hosts = [make_job(tmp_path / name, encoder, epochs="500") for name in ("algo-1", "algo-2")]
    with running(hosts) as processes:
        wait_for(processes[0], "checkpoint at step")
        processes[1 - survivor].kill()
        log, _ = processes[survivor].communicate(timeout=60)
    assert processes[survivor].returncode == 1, log
    reason = (hosts[survivor] / "output/failure").read_text()
    assert reason.startswith("another process of this job has ended or cannot be reached")
    assert "Traceback" not in log
    assert not files_of(hosts[survivor] / "model")
