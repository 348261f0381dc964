"""The program as the platform runs it: its own process, a tree, signals and an exit code."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train.worker as program
from tests.train.trees import REPOSITORY, as_csv, files_of, make_tree, messages, start, train
from textmodel.artifact import Artifact
from textmodel.classifier import load_classifier
from train.hyperparameters import Hyperparameters
from train.recipes import _MODULES

NOTHING: set[str] = set()


@pytest.fixture
def tree(tmp_path: Path, tiny_encoder: Path) -> Path:
    """Return a job that takes as little time as a job can."""
    return job(tmp_path / "ml", tiny_encoder)


def job(root: Path, encoder: Path, rows: int = 40, **hyperparameters: str) -> Path:
    settings = {"recipe": "logistic", "model_name": str(encoder)} | hyperparameters
    # Each text but once, because equal ones are embedded together.
    known = messages(0, 400)
    data = [[f"{known[n % 400][0]} {n // 400}", known[n % 400][1]] for n in range(rows)]
    return make_tree(root, {"train": as_csv(data), "test": as_csv(messages(450, 490))}, settings)


def failure(root: Path) -> str:
    return (root / "output/failure").read_text(encoding="utf-8")


def in_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(root))
    monkeypatch.setattr(sys, "argv", ["train"])
    return program.main()


def stopped(root: Path, when: str, *signals: int) -> tuple[int, str]:
    """Start a job, send SIGTERM when a line of its log has `when`, and wait for its end."""
    with start(root) as process:
        assert process.stdout
        log = ""
        for line in process.stdout:
            log += line
            if when in line:
                break
        for number in signals or (signal.SIGTERM,):
            process.send_signal(number)
            time.sleep(0.05)
        log += process.communicate(timeout=60)[0]
    return process.returncode, log


def test_finished_job_leaves_a_model_its_report_and_no_failure(forest_model: Path) -> None:
    assert {"optml.json", "config.json", "head", "openvino"} <= files_of(forest_model / "model")
    assert files_of(forest_model / "output/data") == {
        "evaluation.json", "predictions.csv", "profile.csv", "report.html",
    }  # fmt: skip
    assert not (forest_model / "output/failure").exists()


@pytest.mark.parametrize("fixture", ["forest_model", "logistic_model", "finetuned_model"])
def test_log_has_lines_for_users_alone(fixture: str, request: pytest.FixtureRequest) -> None:
    log = (request.getfixturevalue(fixture) / "log").read_text()
    assert all(" INFO " in line for line in log.splitlines())
    assert "\r" not in log


def test_model_files_can_be_read_by_every_user(finetuned_model: Path) -> None:
    for path in (finetuned_model / "model").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444


def test_help_names_every_hyperparameter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(f"\n  {name} (" in done.stdout for name in Hyperparameters.model_fields)


def test_job_needs_no_configuration_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path, {"train": as_csv(messages(0, 30))})
    assert in_process(root, monkeypatch) == 0
    assert Artifact.open(root / "model").manifest.recipe == "forest"


def test_input_is_only_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (tree / "input").rglob("*")}

    before = state()
    assert in_process(tree, monkeypatch) == 0
    assert state() == before


def test_job_runs_on_a_read_only_input_without_a_home(tree: Path) -> None:
    for name in ("model", "output"):
        (tree / name).mkdir()
    subprocess.run(["chmod", "-R", "a-w", tree / "input"], check=True)
    as_user: list[str] = []
    if os.geteuid() == 0:  # root may write everywhere until it gives that up
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("root needs setpriv to give up its rights")
        as_user = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*as_user, sys.executable, "-m", "train"],
        cwd=REPOSITORY,
        env={"SAGEMAKER_BASE_DIR": str(tree), "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert Artifact.open(tree / "model").manifest.recipe == "logistic"


def test_model_directory_that_may_not_be_written_is_no_bug(tree: Path) -> None:
    (tree / "model").write_text("a file where the directory should be")
    code, log = train(tree)
    assert code == 1, log
    assert failure(tree).startswith("a file stands where")


def test_job_may_be_run_again_on_the_model_that_it_wrote(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_process(tree, monkeypatch) == 0
    (tree / "input/config/hyperparameters.json").write_text('{"n_estimators": "5"}')
    (tree / "output/failure").write_text("of an earlier attempt")
    code, log = train(tree)
    assert code == 0, log
    assert files_of(tree / "model/head") == {"forest.treelite"}
    assert not (tree / "output/failure").exists()


def test_unused_hyperparameter_is_told(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert in_process(job(tmp_path, tiny_encoder, epochs="3"), monkeypatch) == 0
    assert "recipe logistic does not use epochs" in caplog.text


@pytest.mark.parametrize(
    ("hyperparameters", "cause"),
    [
        ({"epoch": "3"}, "unknown hyperparameter epoch: did you mean epochs?"),
        ({"label_column": "ärger💔"}, "data.csv line 2: there is no column 'ärger💔'"),
    ],
)
def test_users_error_is_the_first_line_of_the_failure_file(
    tmp_path: Path, hyperparameters: dict[str, str], cause: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    root = make_tree(tmp_path, {"train": as_csv(messages(0, 20))}, hyperparameters)
    assert in_process(root, monkeypatch) == 1
    assert failure(root).splitlines()[0].startswith(cause)
    assert cause in caplog.text
    assert "Traceback" not in caplog.text
    assert "bug" not in failure(root)
    assert files_of(root / "model") == NOTHING


def test_job_without_data_fails_in_its_own_process(tmp_path: Path) -> None:
    code, log = train(make_tree(tmp_path, {}))
    assert code == 1
    assert failure(tmp_path) in log
    assert failure(tmp_path).startswith("there is no channel named train")


def test_hub_that_cannot_be_reached_is_the_users_to_avoid(tmp_path: Path) -> None:
    root = make_tree(tmp_path, {"train": as_csv(messages(0, 20))}, {"model_name": "some/model"})
    code, log = train(root, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert code == 1, log
    assert failure(root).startswith("model_name=some/model is no directory, no channel")


def test_internal_error_is_called_a_bug_with_the_traceback_in_the_log_alone(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(_MODULES, "logistic", "train.recipes.fitting")  # it has no fit
    assert in_process(tree, monkeypatch) == 70
    assert failure(tree).startswith("bug in optml, not in your input: AttributeError: module")
    assert "Traceback" not in failure(tree)
    assert "Traceback" in caplog.text
    assert files_of(tree / "model") == NOTHING


def test_full_disk_is_no_bug(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tree / "output").mkdir()
    (tree / "output/data").mkdir()
    (tree / "output/data/evaluation.json").symlink_to("/dev/full")
    assert in_process(tree, monkeypatch) == 1
    assert failure(tree).startswith("the disk is full; give the job a larger volume")


def test_failure_that_cannot_be_written_leaves_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path, {})
    (root / "output").write_text("a file where the directory should be")
    assert in_process(root, monkeypatch) == 1


def test_stop_that_a_library_turned_into_an_error_is_still_a_stop(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "library.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except BaseException:\n    raise ImportError('initialization failed')\n"
    )
    monkeypatch.syspath_prepend(tree)
    monkeypatch.setitem(_MODULES, "logistic", "library")
    assert in_process(tree, monkeypatch) == 143
    assert failure(tree).startswith("stopped by SIGTERM")
    assert files_of(tree / "model") == NOTHING


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_stop_while_libraries_are_imported_leaves_nothing(tree: Path, seconds: float) -> None:
    with start(tree) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=30)
    assert process.returncode == 143, log
    assert failure(tree).startswith("stopped by SIGTERM before a model was finished")
    assert files_of(tree / "model") == NOTHING


@pytest.mark.parametrize("times", [1, 3])
def test_stop_while_embedding_leaves_nothing(
    times: int, tmp_path: Path, tiny_encoder: Path
) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=200_000)
    code, log = stopped(root, "cpus=", *[signal.SIGTERM] * times)
    assert code == 143, log
    assert "Traceback" not in log
    assert files_of(root / "model") == NOTHING


def test_stop_during_the_forest_keeps_the_old_model(tmp_path: Path, tiny_encoder: Path) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=2000, recipe="forest", n_estimators="10000")
    (root / "model").mkdir()
    (root / "model/optml.json").write_text("old")
    code, log = stopped(root, "embedding: 2000 of 2000")
    assert code == 143, log
    assert files_of(root / "model") == {"optml.json"}
    assert (root / "model/optml.json").read_text() == "old"


def test_stop_during_fine_tuning_keeps_the_model_so_far(tmp_path: Path, tiny_encoder: Path) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=400, recipe="finetune", epochs="1000")
    code, log = stopped(root, "[metric] loss")
    assert code == 0, log
    assert "the model so far is kept" in log
    assert not (root / "output/failure").exists()
    assert ".partial" not in files_of(root / "model")
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)


def test_stop_after_the_last_step_keeps_the_model(tmp_path: Path, tiny_encoder: Path) -> None:
    root = job(tmp_path / "ml", tiny_encoder, recipe="finetune", epochs="1")
    code, log = stopped(root, "fine-tuning, steps: 2 of 2")
    assert code == 0, log
    assert "the model so far" not in log
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)


def test_second_sigterm_during_fine_tuning_loses_nothing(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=400, recipe="finetune", epochs="1000")
    code, log = stopped(root, "[metric] loss", signal.SIGTERM, signal.SIGTERM)
    assert code == 0, log
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)


def test_second_sigint_during_fine_tuning_leaves_nothing(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    root = job(tmp_path / "ml", tiny_encoder, rows=400, recipe="finetune", epochs="1000")
    code, log = stopped(root, "[metric] loss", signal.SIGINT, signal.SIGINT)
    assert code == 143, log
    assert files_of(root / "model") == NOTHING


def test_stop_while_measuring_keeps_the_model(tmp_path: Path, tiny_encoder: Path) -> None:
    root = job(tmp_path / "ml", tiny_encoder)
    make_tree(root, {"validation": as_csv(messages(400, 410))})
    (root / "input/data/test/more.csv").write_text(as_csv(messages(0, 490) * 400))
    code, log = stopped(root, "evaluating validation: 10 of 10")
    assert code == 0, log
    assert "the model is kept without having been measured" in log
    assert Artifact.open(root / "model").manifest.metrics == {}
    assert load_classifier(root / "model").predict(["fire"]).shape == (1, 2)
