"""Two processes as two hosts: a tree each, and a connection between them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.train.hosts import Host, finish, free_port
from train import world
from train.errors import PeerLost
from train.world import World


def alone_and_two(tmp_path: Path, encoder: Path, recipe: str) -> list[Host]:
    """Return a job alone, and the same one for two hosts."""
    names = ("alone", "first", "second")
    return [Host(tmp_path / name, encoder, recipe, n_estimators="5") for name in names]


def long_job(tmp_path: Path, encoder: Path) -> tuple[Host, Host]:
    first, second = (Host(tmp_path / str(n), encoder, "logistic", rows=50_000) for n in range(2))
    return first, second


@pytest.mark.parametrize("recipe", ["forest", "logistic"])
def test_two_hosts_make_the_model_that_one_makes_and_the_leader_writes_it(
    recipe: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    alone, first, second = alone_and_two(tmp_path, tiny_encoder, recipe)
    port = free_port()
    leader = first.start(0, 2, port)
    time.sleep(3)  # hosts may start at different times
    late = second.start(1, 2, port)
    for process in (late, leader, alone.start()):
        code, log = finish(process)
        assert code == 0, log
    assert first.model == alone.model
    assert "head/" in " ".join(first.model)
    assert second.model == {}
    assert not second.kept
    assert not (second.root / "output/data").exists()


def test_the_leader_is_the_first_to_end(tmp_path: Path, tiny_encoder: Path) -> None:
    _, first, second = alone_and_two(tmp_path, tiny_encoder, "logistic")
    port = free_port()
    leader, other = first.start(0, 2, port), second.start(1, 2, port)
    ended: list[str] = []

    def note(name: str, process: subprocess.Popen[str]) -> None:
        code, log = finish(process)
        ended.append(name)
        assert code == 0, log

    waits = [threading.Thread(target=note, args=pair)
             for pair in (("other", other), ("leader", leader))]  # fmt: skip
    for wait in waits:
        wait.start()
    for wait in waits:
        wait.join()
    assert ended == ["leader", "other"]


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_host_ends_the_job_of_the_other_with_the_reason(
    lost: int, tmp_path: Path, tiny_encoder: Path
) -> None:
    hosts, port = long_job(tmp_path, tiny_encoder), free_port()
    processes = [host.start(rank, 2, port) for rank, host in enumerate(hosts)]
    hosts[0].wait_for_checkpoints(4, processes[0])
    processes[lost].kill()
    killed = time.monotonic()
    code, log = finish(processes[1 - lost])
    assert time.monotonic() - killed < 20
    finish(processes[lost])
    assert code == 1, log
    assert hosts[1 - lost].failure.startswith("another process of this job has ended or cannot be")
    assert hosts[1 - lost].model == {}


def test_interrupted_job_of_two_hosts_goes_on(tmp_path: Path, tiny_encoder: Path) -> None:
    alone, *pair = alone_and_two(tmp_path, tiny_encoder, "logistic")
    for attempt in range(2):
        port = free_port()
        processes = [host.start(rank, 2, port) for rank, host in enumerate(pair)]
        if attempt == 0:
            pair[0].wait_for_checkpoints(4, processes[0])
            for process in processes:
                process.send_signal(signal.SIGTERM)
        codes, logs = zip(*map(finish, processes), strict=True)
        assert codes == ((143, 143), (0, 0))[attempt], logs
    assert " windows were embedded before" in logs[0]
    assert finish(alone.start())[0] == 0
    assert pair[0].model == alone.model


def test_stop_reaches_a_process_that_waits_for_the_others(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    process = Host(tmp_path, tiny_encoder, "logistic").start(1, 2, free_port())
    assert process.stdout
    assert "waiting for the first process (on 127.0.0.1)" in process.stdout.readline()
    stopped = time.monotonic()
    process.terminate()
    code, log = finish(process)
    assert code == 143, log
    assert time.monotonic() - stopped < 10


def test_host_that_never_starts_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "PATIENCE", 0.5)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(PeerLost, match=r"first process \(on 127\.0\.0\.1\) did not start within"):
        World.join()


def test_waiting_for_others_can_be_interrupted() -> None:
    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGUSR1)

    def handle(number: int, frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(InterruptedError):
            world._wait(lambda: time.sleep(3))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_single_process_needs_no_others() -> None:
    alone = World()
    assert (alone.leads, alone.gather(1), alone.broadcast(2), alone.any(False)) == (
        True, [1], 2, False,
    )  # fmt: skip
