from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from tests.train.trees import as_csv, make_tree, messages
from train.errors import Stopped
from train.hyperparameters import parse
from train.job import Job
from train.metrics import (
    FITTING,
    METRIC_REGEX,
    SPLITS,
    Metrics,
    check_objective,
    definitions,
    names,
)
from train.stopping import Stop
from train.worker import run
from train.world import World


def found(name: str, log: str) -> list[float]:
    """Return what a job's metric definition finds in its log."""
    return [float(value) for value in re.findall(METRIC_REGEX.format(name=name), log)]


def events(directory: Path) -> Iterator[Event]:
    """Read the only event file: records of length, its CRC-32C, an Event, and its CRC-32C."""
    (path,) = directory.iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d{10}\..+", path.name)
    data = path.read_bytes()
    while data:
        (length, checksum) = struct.unpack("<QI", data[:12])
        content, end = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert checksum == masked_crc32c(data[:8])
        assert end == (masked_crc32c(content),)
        yield Event.FromString(content)
        data = data[16 + length :]


def points(directory: Path) -> list[tuple[str, int, Any]]:
    return [
        (value.tag, event.step, pytest.approx(value.simple_value))
        for event in events(directory)
        for value in event.summary.value
    ]


def test_each_value_is_a_line_that_the_definitions_find(caplog: pytest.LogCaptureFixture) -> None:
    Metrics().report({"loss": 0.25, "validation_loss": 1e-9, "learning_rate": -5e-05}, 10)
    assert len(caplog.messages) == 3
    assert found("loss", caplog.text) == [0.25]
    assert found("validation_loss", caplog.text) == [1e-9]
    assert found("learning_rate", caplog.text) == [-5e-05]


def test_platform_accepts_the_definitions() -> None:
    assert len(definitions()) <= 40
    for definition in definitions():
        assert len(definition["Name"]) <= 255
        assert len(definition["Regex"]) <= 500
    assert len({definition["Name"] for definition in definitions()}) == len(definitions())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_a_warning_and_no_metric(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    Metrics().report({"loss": value}, 7)
    assert found("loss", caplog.text) == []
    assert "[metric]" not in caplog.text
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == f"the metric loss is {value} at step 7, not a number"


def test_tensorboard_reads_the_points(tmp_path: Path) -> None:
    with Metrics(tmp_path / "a/b") as metrics:
        metrics.report({"loss": 0.5, "grad_norm": 2.0}, 10)
        metrics.report({"validation_accuracy": 0.75}, 20)
        metrics.report({"test_macro_f1": 0.7})
    assert next(events(tmp_path / "a/b")).file_version == "brain.Event:2"
    assert points(tmp_path / "a/b") == [
        ("train/loss", 10, 0.5),
        ("train/grad_norm", 10, 2.0),
        ("validation/accuracy", 20, 0.75),
        ("test/macro_f1", 20, pytest.approx(0.7)),
    ]


def _report_and_stop(metrics: Metrics) -> None:
    metrics.report({"loss": 0.5}, 10)
    raise Stopped("SIGTERM")


def test_points_are_kept_when_a_stop_ends_the_job(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    with pytest.raises(Stopped), metrics:
        _report_and_stop(metrics)
    assert points(tmp_path) == [("train/loss", 10, 0.5)]


def test_a_job_of_many_points_has_one_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with Metrics(tmp_path) as metrics:
        for step in range(20_000):
            metrics.report({"loss": 1.0}, step)
    assert sum(1 for _ in events(tmp_path)) == 20_001


def test_nothing_is_written_where_nothing_is_reported(tmp_path: Path) -> None:
    with Metrics(tmp_path / "tensorboard"):
        pass
    assert not (tmp_path / "tensorboard").exists()


def test_directory_that_cannot_be_written_is_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with Metrics(tmp_path / "file/tensorboard") as metrics:
        metrics.report({"loss": 1.0}, 1)
        metrics.report({"loss": 0.5}, 2)
    assert caplog.text.count("no more points for TensorBoard: ") == 1
    assert found("loss", caplog.text) == [1.0, 0.5]


def test_disk_that_is_full_is_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full.open("wb"))
    with Metrics(tmp_path) as metrics:
        metrics.report({"loss": 1.0}, 1)
        metrics.report({"loss": 0.5}, 2)
    assert "TensorBoard: [Errno 28] No space left on device" in caplog.text
    assert found("loss", caplog.text) == [1.0, 0.5]


@pytest.mark.parametrize("several_labels", [False, True])
@pytest.mark.parametrize("recipe", FITTING)
def test_names_are_those_that_a_job_prints(
    recipe: str,
    several_labels: bool,
    tmp_path: Path,
    tiny_encoder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = messages(0, 80)
    if several_labels:
        rows = [
            [text, "|".join(["both", label] if number % 3 else [label])]
            for number, (text, label) in enumerate(rows)
        ]
    channels = {"train": rows[:40], "validation": rows[40:60], "test": rows[60:]}
    settings = {"recipe": recipe, "model_name": str(tiny_encoder), "train_batch_size": "8"}
    settings |= {"oob_score": "true"} if recipe == "forest" else {}
    settings |= {"label_separator": "|"} if several_labels else {}
    tree = make_tree(tmp_path, {name: as_csv(part) for name, part in channels.items()}, settings)
    run(Job(tree), Stop(), World())
    printed = set(re.findall(r"\[metric\] (\w+)=", caplog.text))
    assert printed | {"int8_agreement"} == set(names([recipe]))
    assert points(tmp_path / "output/tensorboard")


@pytest.mark.parametrize(
    ("objective", "hyperparameters", "splits"),
    [
        ("validation_accuracy", {"recipe": "forest"}, ["test"]),
        ("validation_loss", {"recipe": "finetune"}, ["test"]),
        ("loss", {"recipe": "logistic"}, ["test"]),
        ("oob_accuracy", {"recipe": "forest"}, ["test"]),
        ("int8_agreement", {"recipe": "forest"}, ["test"]),
    ],
)
def test_objective_that_is_not_reported_is_told_of(
    objective: str,
    hyperparameters: dict[str, str],
    splits: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_objective({"_tuning_objective_metric": objective}, parse(hyperparameters), splits)
    assert f"objective {objective} is none of what this job reports (" in caplog.text
    assert "test_accuracy" in caplog.text


@pytest.mark.parametrize("objective", [None, "", "test_accuracy", '"test_macro_f1"'])
def test_objective_that_is_reported_needs_no_word(
    objective: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    given = {} if objective is None else {"_tuning_objective_metric": objective}
    check_objective(given, parse({}), SPLITS)
    assert not caplog.messages
