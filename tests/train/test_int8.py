"""int8=true: a second graph, compared with the first, that no stop and no failure costs a model."""

from __future__ import annotations

import csv
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.train.test_main import in_process, job, stopped
from tests.train.trees import as_csv, files_of, make_tree, messages, start
from textmodel.artifact import Artifact, Manifest
from textmodel.classifier import load_classifier
from textmodel.runtime import OPENVINO_FILES
from train.errors import Stopped
from train.metrics import METRIC_REGEX
from train.recipes import _MODULES

GRAPH = set(OPENVINO_FILES["int8"])
AGREEMENT = METRIC_REGEX.format(name="int8_agreement")


def test_finished_job_tells_what_int8_is_worth(int8_model: Path) -> None:
    manifest = Artifact.open(int8_model / "model").manifest
    assert manifest.files.keys() >= GRAPH
    assert manifest.int8_rows == 60
    assert manifest.int8_agreement is not None
    assert manifest.int8_agreement > 0.9
    log = (int8_model / "log").read_text()
    found = re.search(AGREEMENT, log)
    assert found
    assert float(found[1]) == pytest.approx(manifest.int8_agreement, abs=1e-5)
    assert "serve chooses precision=" in log


def test_log_of_quantising_has_lines_for_users_alone(int8_model: Path) -> None:
    lines = (int8_model / "log").read_text().splitlines()
    assert all(" INFO " in line for line in lines)
    assert not any("nncf" in line.lower() or "━" in line for line in lines)
    assert len([line for line in lines if "quantising" in line]) < 20


@pytest.mark.parametrize("recipe", _MODULES)
def test_every_recipe_is_measured_as_it_will_answer(
    recipe: str, tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = job(tmp_path, tiny_encoder, recipe=recipe, int8="true", epochs="1", n_estimators="5")
    assert in_process(root, monkeypatch) == 0
    assert Artifact.open(root / "model").manifest.int8_agreement is not None
    classifier = load_classifier(root / "model")
    with (root / "output/data/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = classifier.predict([row["text"] for row in rows])
    assert [classifier.labels[index] for index in scores.argmax(1)] == [
        row["prediction"] for row in rows
    ]


def test_any_number_of_labels_and_pairs_are_compared(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = ("first", "second", "label")
    rows = [
        ["fire", text, "both|fire" if number % 3 else ""]
        for number, (text, _) in enumerate(messages(0, 60))
    ]
    settings = {
        "recipe": "logistic", "model_name": str(tiny_encoder), "int8": "true",
        "text_column": "first", "text_pair_column": "second", "label_separator": "|",
    }  # fmt: skip
    root = make_tree(tmp_path, {"train": as_csv(rows, header)}, settings)
    assert in_process(root, monkeypatch) == 0
    manifest = Artifact.open(root / "model").manifest
    assert manifest.int8_agreement is not None
    assert 0 < manifest.int8_rows < 60  # the part that was held out


def test_without_being_asked_for_there_is_no_int8(logistic_model: Path) -> None:
    manifest = Artifact.open(logistic_model / "model").manifest
    assert not GRAPH & manifest.files.keys()
    assert (manifest.int8_agreement, manifest.int8_rows) == (None, 0)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0])
def test_stop_while_quantising_keeps_the_float_model(
    seconds: float, tmp_path: Path, tiny_encoder: Path
) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=400, int8="true")
    with start(root) as process:
        assert process.stdout
        log = ""
        for line in process.stdout:
            log += line
            if "quantising the encoder" in line:
                break
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        log += process.communicate(timeout=60)[0]
    if "int8_agreement=" in log:
        pytest.skip("it was quantised before the stop")
    assert process.returncode == 0, log
    assert "stopped by SIGTERM: the model is kept without int8" in log
    assert not GRAPH & files_of(root / "model")
    assert not (root / "output/failure").exists()
    assert Artifact.open(root / "model").manifest.metrics == {}
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)


def test_stop_after_quantising_is_handled_and_keeps_both(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    root = job(tmp_path / "ml", tiny_encoder, int8="true")
    (root / "input/data/test/more.csv").write_text(as_csv(messages(0, 490) * 400))
    code, log = stopped(root, "serve chooses precision=")
    assert code == 0, log
    assert "the model is kept without having been measured" in log
    assert Artifact.open(root / "model").manifest.int8_rows == 2000
    assert load_classifier(root / "model", precision="int8").predict(["fire"]).shape == (1, 2)


def test_stop_right_after_int8_is_sealed_keeps_what_it_is_worth(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(manifest: Manifest) -> None:
        raise Stopped("SIGTERM")

    root = job(tmp_path, tiny_encoder, int8="true")
    monkeypatch.setattr("train.int8.openvino_precision", stop)
    assert in_process(root, monkeypatch) == 0
    assert Artifact.open(root / "model").manifest.int8_rows > 0


def test_stop_of_fine_tuning_is_no_time_to_quantise(tmp_path: Path, tiny_encoder: Path) -> None:
    root = job(
        tmp_path / "ml", tiny_encoder, rows=400, recipe="finetune", epochs="1000", int8="true"
    )
    code, log = stopped(root, "[metric] loss")
    assert code == 0, log
    assert "quantising the encoder" not in log
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)


def test_failure_to_quantise_keeps_the_float_model(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    root = job(tmp_path, tiny_encoder, int8="true")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert in_process(root, monkeypatch) == 0
    assert "the model is kept without int8, because nncf failed: exit status 1" in caplog.text
    manifest = Artifact.open(root / "model").manifest
    assert manifest.int8_agreement is None
    assert manifest.metrics["test_accuracy"] > 0
