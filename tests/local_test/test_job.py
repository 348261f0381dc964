"""A job goes through what the service takes it through. The programs are bare stand-ins."""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from local_test.job import Job, Request
from local_test.launchers import Bare

New = Callable[..., Job]

OFTEN = [2.0] * 20
"""Interruptions, more than needed: on a busy machine some come before the program has started."""


@pytest.fixture
def new(tmp_path: Path) -> New:
    """Return a function that makes a job of a stand-in."""

    def make(do: str, **options: Any) -> Job:
        request = Request("job", tmp_path / "job", hyperparameters={"do": do}, **options)
        return Job(request, Bare("tests.local_test.stand_in"))

    return make


@pytest.fixture
def run(new: New) -> New:
    def call(do: str, **options: Any) -> Job:
        job = new(do, **options)
        job.run()
        return job

    return call


def wait_for_output(
    output: pytest.CaptureFixture[str], thread: threading.Thread, text: str
) -> None:
    seen = ""
    while text not in seen:
        assert thread.is_alive()
        time.sleep(0.05)
        seen += output.readouterr().out


def stop_when_ready(job: Job, output: pytest.CaptureFixture[str], times: int = 1) -> None:
    """Run a job, and stop it once its program says that it is ready."""
    thread = threading.Thread(target=job.run)
    thread.start()
    wait_for_output(output, thread, "ready")
    for _ in range(times):
        job.stop()
    thread.join()


def statuses(job: Job) -> list[str]:
    return [status for status, _ in job.transitions]


def names(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def test_a_job_completes_where_its_program_ends_with_0(run: New) -> None:
    job = run("succeed")
    assert (job.status, job.code, job.reason) == ("Completed", 0, "")
    assert statuses(job) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]


def test_archives_hold_model_and_output_data_at_their_roots(run: New) -> None:
    job = run("succeed")
    assert names(job.archives["model.tar.gz"]) == ["head", "head/weights"]
    assert names(job.archives["output.tar.gz"]) == ["report"]


def test_failure_reason_is_the_first_1024_characters_of_the_file(run: New) -> None:
    job = run("fail")
    assert (job.status, job.secondary_status, job.code) == ("Failed", "Failed", 3)
    assert job.reason == "ValueError: " + "é" * 1012
    assert "model.tar.gz" not in job.archives


def test_failure_reason_without_a_file_is_the_services(run: New) -> None:
    assert run("crash").reason == "AlgorithmError: , exit code: 7"


def test_what_is_over_its_time_is_stopped_and_keeps_its_model(run: New) -> None:
    job = run("wait", max_runtime=6)
    assert (job.status, job.secondary_status) == ("Stopped", "MaxRuntimeExceeded")
    assert statuses(job)[2:] == ["Training", "Stopping", "Uploading", "MaxRuntimeExceeded"]
    assert names(job.archives["model.tar.gz"]) == ["stopped"]


def test_a_stopped_job_keeps_its_model_whatever_its_exit_status(
    new: New, capsys: pytest.CaptureFixture[str]
) -> None:
    job = new("wait")
    stop_when_ready(job, capsys)
    assert (job.status, job.secondary_status, job.code) == ("Stopped", "Stopped", 4)
    assert (job.reason, names(job.archives["model.tar.gz"])) == ("", ["stopped"])


def test_what_ignores_sigterm_is_killed_with_its_children_after_the_grace(
    new: New, capsys: pytest.CaptureFixture[str]
) -> None:
    job = new("ignore", grace=0.5)
    stop_when_ready(job, capsys)
    assert (job.status, job.code) == ("Stopped", 137)
    child = int((job.request.output / "model/child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_a_second_stop_does_not_wait_for_the_grace(
    new: New, capsys: pytest.CaptureFixture[str]
) -> None:
    job = new("ignore")
    stop_when_ready(job, capsys, times=2)
    assert job.code == 137


def test_an_interrupted_job_goes_on_with_its_checkpoints_and_a_fresh_tree(
    run: New, tmp_path: Path
) -> None:
    job = run("count", checkpoints=tmp_path / "kept", interruptions=OFTEN)
    assert job.status == "Completed"
    assert statuses(job)[2:6] == ["Training", "Interrupted", "Starting", "Downloading"]
    assert (tmp_path / "kept/count").read_text() == "3"
    assert names(job.archives["model.tar.gz"]) == ["3"]


def test_an_interrupted_job_without_checkpoints_begins_anew(
    run: New, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("count", interruptions=OFTEN, max_runtime=7).status == "Stopped"
    assert set(capsys.readouterr().out.splitlines()) == {"start 1", "ready"}


@pytest.mark.parametrize("notice", [True, False])
def test_an_interruption_can_come_at_any_time_with_or_without_notice(
    new: New, tmp_path: Path, capsys: pytest.CaptureFixture[str], notice: bool
) -> None:
    job = new("count", checkpoints=tmp_path / "kept")
    thread = threading.Thread(target=job.run)
    thread.start()
    for number in (1, 2):
        wait_for_output(capsys, thread, f"start {number}\nready")
        job.interrupt(notice)
    thread.join()
    assert (job.status, (tmp_path / "kept/count").read_text()) == ("Completed", "3")


def test_interruptions_are_not_billed(run: New, tmp_path: Path) -> None:
    job = run("count", checkpoints=tmp_path / "kept", interruptions=OFTEN)
    starts = [start for _, start in job.transitions]
    assert 0 < job.billable_seconds < starts[-1] - starts[0]


def test_checkpoints_of_an_earlier_job_are_found(run: New, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/count").write_text("2")
    assert run("count", checkpoints=tmp_path / "kept").status == "Completed"


def test_checkpoints_may_be_kept_in_the_tree(run: New, tmp_path: Path) -> None:
    kept = tmp_path / "job/checkpoints"
    assert run("count", checkpoints=kept, interruptions=OFTEN).status == "Completed"


def test_each_epoch_of_a_pipe_is_a_fifo_with_all_files_in_order(run: New, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "data" / name).write_text(f"{name}\n" * 3)
    job = run("pipe", channels={"train": tmp_path / "data"}, input_modes={"train": "Pipe"})
    assert job.status == "Completed"
    epochs = [(job.request.output / f"model/{epoch}").read_text() for epoch in range(3)]
    assert epochs == ["a\na\na\nb\nb\nb\nc\nc\nc\n"] * 2 + ["a\na\na"]


def test_a_pipe_that_nobody_reads_ends_with_the_job(run: New, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("row\n")
    job = run("succeed", channels={"train": tmp_path / "rows"}, input_modes={"train": "Pipe"})
    assert job.status == "Completed"
    assert not (job.request.output / "input/data/train").exists()


def test_metrics_are_read_from_the_log(run: New) -> None:
    patterns = {"loss": "loss=([0-9.]+)", "rate": r"rate=(\S+)", "f1": "f1=([0-9.]+)"}
    job = run("succeed", metrics=patterns)
    found = {name: [value for _, value in values] for name, values in job.metrics.values.items()}
    assert found == {"loss": [0.5, 0.25], "rate": [0.001], "f1": []}
    assert job.metrics.table().splitlines() == [
        "metric  found         last",
        "loss        2         0.25",
        "rate        1        0.001",
        "never found: f1",
    ]
