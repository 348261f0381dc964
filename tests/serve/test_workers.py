"""How many processes serve, and that several of them are one server to its clients."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from serve import workers
from serve.workers import Scoreboard, worker_count
from tests.serve.conftest import Server, Start, connections, settings, wait_until
from tests.serve.test_worker import post, read_answer
from textmodel.hardware import Choice, cpu_count, share_cores

GB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def has(cores: int, memory: int) -> None:
        monkeypatch.setattr(workers, "cpu_count", lambda: Choice("cpus", cores, ""))
        monkeypatch.setattr(workers, "free_memory", lambda: Choice("free_memory", memory, ""))

    return has


# How many


@pytest.mark.parametrize(
    ("cores", "count"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (16, 4), (36, 9)]
)
def test_four_cores_are_worth_a_process(
    machine: Callable[[int, int], None], logistic_model: Path, cores: int, count: int
) -> None:
    machine(cores, 64 * GB)
    assert worker_count(settings(logistic_model)).value == count


def test_no_more_processes_than_fit_into_memory(
    machine: Callable[[int, int], None], logistic_model: Path
) -> None:
    machine(16, 2 * GB)
    choice = worker_count(settings(logistic_model))
    assert 1 <= choice.value < 4
    assert "2048 MB of memory are free" in choice.reason
    machine(16, 1)
    assert worker_count(settings(logistic_model)).value == 1


def test_code_of_the_users_own_has_one_process_unless_more_are_asked_for(
    machine: Callable[[int, int], None], tmp_path: Path
) -> None:
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text("def model_fn(model_dir):\n    return 1\n")
    machine(16, 64 * GB)
    assert worker_count(settings(tmp_path)).value == 1
    assert worker_count(settings(tmp_path, SAGEMAKER_MODEL_SERVER_WORKERS="3")).value == 3


def test_models_that_come_and_go_are_in_one_process_whatever_is_asked_for() -> None:
    given = settings(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="3")
    assert worker_count(given).value == 1


def test_workers_share_what_may_be_in_hand() -> None:
    one = settings(OPTML_MAX_REQUESTS="5", OPTML_MAX_TOKENS="100").for_one_of(2)
    assert (one.max_requests, one.max_tokens) == (3, 50)


def test_processes_share_the_cores() -> None:
    alone = cpu_count()
    share_cores(2)
    try:
        assert cpu_count().value == max(1, alone.value // 2)
        assert "2 processes share them" in cpu_count().reason
    finally:
        share_cores(1)
    assert cpu_count() == alone


# What they know of each other


def test_a_scoreboard_is_complete_from_when_all_serve_until_none_does() -> None:
    board = Scoreboard(2)
    board.begin(0)
    assert not board.complete
    board.begin(1)
    assert board.complete
    board.clear(0)
    assert board.complete
    assert [board.serves(0), board.serves(1)] == [False, True]
    board.clear(1)
    assert not board.complete
    board.begin(0)
    assert not board.complete


def test_a_place_is_given_again_once_its_worker_is_gone() -> None:
    board = Scoreboard(3)
    assert [board.free_place(taken) for taken in ([], [0], [0, 2], [1, 2])] == [0, 1, 1, 0]
    assert board.free_place([0, 1, 2]) == 3  # SIGHUP has new ones come before the old ones go


def test_only_workers_that_serve_are_left_connections() -> None:
    board = Scoreboard(2)
    board.begin(0)
    board.count(0, 3)
    board.count(1, 0)  # it loads, so this is not told
    assert not board.others_have_fewer(3)
    board.begin(1)
    assert board.others_have_fewer(1)
    assert not board.others_have_fewer(0)


def test_others_serve_while_one_loads() -> None:
    board = Scoreboard(2)
    assert not board.others_serve(0)
    board.begin(0)
    assert not board.others_serve(0)
    assert board.others_serve(1)


# One server to its clients


@pytest.fixture(scope="module")
def pair(logistic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two processes, which its tests leave as it was."""
    log = tmp_path_factory.mktemp("pair") / "log"
    server = Server(
        logistic_model,
        log,
        SAGEMAKER_MODEL_SERVER_WORKERS="2",
        OPTML_PRECISION="fp32",  # graphs of single shapes, which come later, give other last bits
    )
    server.wait()
    yield server
    server.end()


def test_connections_are_shared_out_evenly(pair: Server) -> None:
    processes = psutil.Process(pair.process.pid).children()
    assert len(processes) == 2
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(pair.connect())
            connection.sendall(post("a text"))
            assert read_answer(stack.enter_context(connection.makefile("rb")))[0] == 200
        assert sum(map(connections, processes)) >= 20
        assert min(map(connections, processes)) >= 8


def test_metrics_are_those_of_all_processes(pair: Server) -> None:
    before = pair.metric("optml_texts_total")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(pair.ask, [f"text {number}" for number in range(40)]))
    assert {answer.status_code for answer in answers} == {200}
    assert {pair.metric("optml_texts_total") - before for _ in range(10)} == {40}
    assert pair.metric("optml_waiting_tokens") == 0


def test_each_process_answers_the_same(pair: Server) -> None:
    assert len({pair.ask("a text").text for _ in range(20)}) == 1


def test_ping_is_503_until_all_have_loaded_and_200_while_one_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text(SLOW_SECOND)
    server = start(tmp_path, SAGEMAKER_MODEL_SERVER_WORKERS="2")
    wait_until(lambda: server.log.read_text().count("model ready") == 1)
    assert {server.ping() for _ in range(10)} == {503}
    assert {server.ask({"inputs": "x"}).status_code for _ in range(10)} == {200}
    (tmp_path / "model/go").touch()
    server.wait()
    (tmp_path / "model/go").unlink()
    lost, kept = psutil.Process(server.process.pid).children()
    lost.kill()
    lost.wait()
    wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 2)
    for _ in range(20):  # the replacement does not take what it cannot answer
        assert server.ping() == 200
        assert server.ask({"inputs": "x"}).json() == [kept.pid]
        time.sleep(0.05)
    (tmp_path / "model/go").touch()
    wait_until(lambda: server.log.read_text().count("model ready") == 3)
    with ThreadPoolExecutor(8) as pool:
        wait_until(lambda: len({a.text for a in pool.map(server.ask, [{"inputs": "x"}] * 16)}) == 2)


SLOW_SECOND = """
import os
import time
from pathlib import Path

def model_fn(model_dir):
    try:
        (Path(model_dir) / "first").touch(exist_ok=False)
    except FileExistsError:
        while not (Path(model_dir) / "go").exists():
            time.sleep(0.01)
    return 1

def predict_fn(data, model):
    return [os.getpid()]
"""


class Breakable(Server):
    """A server whose engine fails in the process that the file BREAK names."""

    program = (
        "-c",
        """
import os
import sys
from pathlib import Path

from serve.__main__ import main
from textmodel.runtime import OpenVINORuntime

execute = OpenVINORuntime.__call__

def fail(self, batch, **given):
    if Path(os.environ["BREAK"]).read_text() == str(os.getpid()):
        raise RuntimeError("the engine is out of order")
    return execute(self, batch, **given)

OpenVINORuntime.__call__ = fail
sys.exit(main())
""",
    )


def test_a_process_whose_engine_is_broken_is_replaced_while_others_answer(
    logistic_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "break"
    file.write_text("none")
    server = Breakable(
        logistic_model, tmp_path / "log", BREAK=str(file), SAGEMAKER_MODEL_SERVER_WORKERS="2"
    )
    try:
        server.wait()
        broken, whole = psutil.Process(server.process.pid).children()
        file.write_text(str(broken.pid))
        wait_until(lambda: server.ask("a text").status_code == 500)
        wait_until(lambda: not broken.is_running())
        for _ in range(20):
            assert server.ping() == 200
            assert server.ask("a text").status_code == 200
        wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 2)
        assert whole.is_running()
        assert "to be replaced: the engine is broken" in server.log.read_text()
    finally:
        server.end()


@pytest.mark.parametrize("count", ["1", "2"])
def test_sighup_replaces_all_processes(start: Start, logistic_model: Path, count: str) -> None:
    server = start(logistic_model, SAGEMAKER_MODEL_SERVER_WORKERS=count)
    server.wait()
    before = set(psutil.Process(server.process.pid).children())
    server.process.send_signal(signal.SIGHUP)

    wait_until(lambda: not before & set(psutil.Process(server.process.pid).children()))
    server.wait()
    assert server.ask("a text").status_code == 200


def test_several_processes_end_well_under_load_and_leave_nothing(
    start: Start, logistic_model: Path, tmp_path: Path
) -> None:
    server = start(logistic_model, SAGEMAKER_MODEL_SERVER_WORKERS="2", TMPDIR=str(tmp_path))
    server.wait()

    def ask() -> None:
        try:
            while True:
                assert server.ask("a text " * 100).status_code == 200
        except requests.RequestException:
            pass

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        wait_until(lambda: server.metric("optml_texts_total") > 20)
        assert list(tmp_path.glob("metrics-*"))
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0
        for client in clients:
            client.result()
    assert not list(tmp_path.glob("metrics-*"))
    assert "Traceback" not in server.log.read_text()


def test_a_model_that_no_process_can_load_ends_the_server_with_its_cause_as_last_line(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text("def model_fn(model_dir):\n    1 / 0\n")
    server = start(tmp_path, SAGEMAKER_MODEL_SERVER_WORKERS="2")
    assert server.process.wait(60) != 0
    assert "ZeroDivisionError" in server.log.read_text().splitlines()[-1]
