from __future__ import annotations

import csv
import itertools
import os
import stat
import time
from array import array
from pathlib import Path

import psutil
import pytest

import train.profiler
from tests.processes import alone
from train.profiler import Profiler


@pytest.fixture(autouse=True)
def many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.profiler.INTERVAL", 0.05)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.profiler.shutil.which", lambda name: None)


def samples(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def sleep_and_work(path: Path) -> None:
    train.profiler.INTERVAL = 0.05
    with Profiler(path) as profiler:
        with profiler.phase("reading"):
            time.sleep(0.5)
        with profiler.phase("fitting"):
            work(0.5)


def resident_after_sleep(path: Path) -> int:
    with Profiler(path):
        time.sleep(0.1)
    return int(psutil.Process().memory_info().rss)


def processor_time_of_sleep(path: Path) -> float:
    with Profiler(path):
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(3)
        return time.process_time() - before


def test_samples_tell_the_phase_and_how_busy_the_cores_were(tmp_path: Path) -> None:
    alone(sleep_and_work, tmp_path / "data/profile.csv")
    rows = samples(tmp_path / "data/profile.csv")
    busy = dict.fromkeys(("other", "reading", "fitting"), 0.0)
    for before, row in itertools.pairwise(rows):
        seconds = float(row["seconds"]) - float(before["seconds"])
        busy[row["phase"]] += float(row["cpu_percent"]) * seconds
    assert busy["fitting"] > busy["reading"]
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)


def test_phase_inside_another_takes_its_place_for_a_while(tmp_path: Path) -> None:
    with Profiler(tmp_path / "profile.csv") as profiler, profiler.phase("fitting"):
        with profiler.phase("embedding"):
            pass
        time.sleep(0.2)
    phases = [row["phase"] for row in samples(tmp_path / "profile.csv")]
    assert phases[1:3] == ["fitting", "embedding"]
    assert phases.count("fitting") >= 3


def test_memory_is_that_of_all_processes(tmp_path: Path) -> None:
    resident = alone(resident_after_sleep, tmp_path / "profile.csv")
    memory = float(samples(tmp_path / "profile.csv")[-1]["memory_mb"])
    assert memory == pytest.approx(resident / 1e6, rel=0.2)


def test_memory_limit_of_the_container_is_what_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    assert train.profiler._memory_limit(tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert train.profiler._memory_limit(tmp_path) == psutil.virtual_memory().total


def test_steps_are_counted_once_and_slow_ones_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, without_gpu: None
) -> None:
    with Profiler(tmp_path / "profile.csv") as profiler:
        for number in range(100):
            profiler.step(4.0 if number < 7 else 1.0, 0.5)
            time.sleep(0.002)
    rows = samples(tmp_path / "profile.csv")
    assert sum(int(row["steps"]) for row in rows) == 100
    assert sum(float(row["step_seconds"]) for row in rows) == 121
    assert sum(float(row["wait_seconds"]) for row in rows) == 50
    (line,) = caplog.messages
    assert "7 of 100 steps took more than 3 times the median of 1 s (texts of very" in line
    assert "steps waited 29 % of their time for data (an instance with more cores" in line


@pytest.mark.parametrize(
    ("cpu", "memory", "advice"),
    [
        (97, 40, "the CPU was busy 97 % of the time (an instance with more cores would help)"),
        (10, 40, "the CPU was busy 10 % of the time (fewer cores would do)"),
        (60, 91, "memory peaked at 500 MB, 91 % of the limit (lower train_batch_size, or take"),
        (60, 40, "the CPU was busy 60 % of the time; memory peaked at 500 MB, 40 % of the limit"),
    ],
)
def test_advice_fits_what_was_measured(cpu: float, memory: float, advice: str) -> None:
    assert advice in describe(cpu, memory, None, None)


@pytest.mark.parametrize(
    ("gpu", "memory", "advice"),
    [
        (20, 50, "the GPU was busy 20 % of the time (raise train_batch_size, or take a smaller"),
        (90, 95, "its memory peaked at 95 % (lower train_batch_size)"),
        (90, 10, "its memory peaked at 10 % (train_batch_size can be raised)"),
    ],
)
def test_advice_is_about_the_gpu_where_there_is_one(gpu: float, memory: float, advice: str) -> None:
    told = describe(95, 40, gpu, memory)
    assert advice in told
    assert "more cores" not in told


def test_advice_names_no_setting_that_the_recipe_lacks() -> None:
    assert "train_batch_size" not in describe(60, 91, None, None, steps=0)
    assert "train_batch_size" not in describe(60, 91, 20, 95, steps=0)


def describe(
    cpu: float, memory: float, gpu: float | None, gpu_memory: float | None, steps: int = 10
) -> str:
    totals = train.profiler._Totals()
    for second in range(100):
        totals.add(
            train.profiler.Sample(second, "fitting", cpu, 500, memory, gpu, gpu_memory, 0, 0, 0), 1
        )
    return totals.describe(array("d", [1.0] * steps), array("d", [0.0] * steps))


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    lines = "0, 40, 1000, 4000\\n1, 60, 3000, 4000\\n2, [N/A], [N/A], [N/A]\\n"
    program.write_text(f'#!/bin/sh\nprintf "{lines}"\nexec sleep 60\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    before = psutil.Process().children()
    started = time.monotonic()
    with Profiler(tmp_path / "profile.csv"):
        time.sleep(1)
    assert time.monotonic() - started < 10
    last = samples(tmp_path / "profile.csv")[-1]
    assert (last["gpu_percent"], last["gpu_memory_percent"]) == ("50.0", "75.0")
    assert psutil.Process().children() == before


def test_directory_that_cannot_be_written_is_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with Profiler(tmp_path / "file/profile.csv") as profiler, profiler.phase("fitting"):
        profiler.step(1.0)
    (message,) = caplog.messages
    assert message.startswith("no profile: ")


def test_failed_job_has_its_samples_and_no_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = Profiler(tmp_path / "profile.csv")
    with pytest.raises(ValueError, match="a fault"), profiler:
        raise ValueError("a fault")
    assert samples(tmp_path / "profile.csv")
    assert not caplog.messages


def test_only_the_leader_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Profiler() as profiler, profiler.phase("fitting"):
        profiler.step(1.0)
    assert not list(tmp_path.iterdir())


def test_sampling_takes_next_to_no_time(tmp_path: Path) -> None:
    used = alone(processor_time_of_sleep, tmp_path / "profile.csv")
    assert used < 0.01 * 3 * 2  # 2: for a busy machine
