"""`python -m local_test train` with this repository's own program, bare, and what it refuses."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel, StructureShape

from local_test import training

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, sys
from pathlib import Path

print("loss=0.25;", sys.argv[1:], os.environ["GREETING"], flush=True)
Path(os.environ["SM_MODEL_DIR"], "weights").touch()
"""

KINDS: dict[str, Any] = {
    "list": list, "map": dict, "structure": dict, "boolean": bool, "float": float, "integer": int,
}  # fmt: skip

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "local_test", "train", "--output", str(tmp_path / "job")]
        return subprocess.run(
            [*command, *arguments],
            env=os.environ | {"AWS_REGION": "eu-central-1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory with a script that the program of this repository runs."""
    (tmp_path / "source/__pycache__").mkdir(parents=True)
    (tmp_path / "source/fit.py").write_text(SCRIPT)
    return tmp_path / "source"


def test_a_script_runs_with_the_jobs_settings(run: Run, source: Path, tmp_path: Path) -> None:
    done = run(
        *("--source", str(source), "--entry-point", "fit.py", "--quoting", "sdk-v2"),
        *("--hyperparameter", "name=a b", "--env", "GREETING=good day", "--data", f"x={source}"),
        *("--content-type", "x=text/x-python", "--metric", "loss=loss=([0-9.]+)"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss=0.25; ['--name', 'a b'] good day\n" in done.stdout
    assert "no image is named: the bare program of this repository runs. Not kept: " in done.stderr
    assert "loss        1         0.25\n" in done.stderr
    assert "Completed, exit status 0" in done.stderr
    job = json.loads((tmp_path / "job/job.json").read_text())
    check(job, "DescribeTrainingJobResponse")
    assert job["TrainingJobArn"].startswith("arn:aws:sagemaker:eu-central-1:123456789012:")
    assert job["HyperParameters"]["sagemaker_program"] == '"fit.py"'
    assert job["FinalMetricDataList"][0]["Value"] == 0.25
    with tarfile.open(tmp_path / "job/input/data/code/sourcedir.tar.gz") as archive:
        assert archive.getnames() == ["fit.py"]


def test_the_script_of_a_failed_job_is_named(run: Run, source: Path, tmp_path: Path) -> None:
    done = run("--source", str(source), "--entry-point", "fit.py")
    assert done.returncode == 1
    assert "FailureReason: KeyError: 'GREETING'" in done.stderr
    assert "Failed, exit status 1" in done.stderr
    job = json.loads((tmp_path / "job/job.json").read_text())
    check(job, "DescribeTrainingJobResponse")
    assert job["FailureReason"].startswith("KeyError: 'GREETING'")


def test_every_option_is_documented_and_there_is_no_other() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    training.add_arguments(parser)
    section = (ROOT / "docs/local_test.md").read_text(encoding="utf-8").split("\n## Train\n")[1]
    rows = re.findall(r"^\| `(--[a-z-]+)", section.split("\n## ")[0], re.MULTILINE)
    options = [action.option_strings[0] for action in parser._actions if action.option_strings]
    assert rows == options


def check(value: Any, shape: str) -> None:
    """Hold an answer against botocore's model: names, types, and what is required."""
    description = Loader().load_service_model("sagemaker", "service-2")
    _check(value, ServiceModel(description).shape_for(shape))


def _check(value: Any, shape: Any) -> None:
    assert isinstance(value, KINDS.get(shape.type_name, str)), (shape, value)
    if isinstance(shape, StructureShape):
        assert set(shape.required_members) <= set(value) <= set(shape.members)
        for name, member in value.items():
            _check(member, shape.members[name])
    elif shape.type_name == "list":
        for member in value:
            _check(member, shape.member)
    elif shape.type_name == "map":
        for member in value.values():
            _check(member, shape.value)
    elif enum := getattr(shape, "enum", []):
        assert value in enum


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "train"], '--data "train" is not of the form KEY=VALUE'),
        (["--data", "train=/no/such/path"], "/no/such/path does not exist"),
        (["--hyperparameter", "=2"], '"=2" is not of the form KEY=VALUE'),
        (["--hyperparameter", "a=1", "--hyperparameter", "a=2"], '"a" is given twice'),
        (["--env", "A-B=1"], '--env "A-B": names are letters, digits and _'),
        (["--env", f"A={'b' * 513}"], "SageMaker allows values of 512 characters"),
        (["--quoting", "sdk-v1"], "sdk-v2"),
        (["--source", "/etc/hostname"], '"/etc/hostname" is no directory'),
        (["--source", "/etc"], "there is no train.py in /etc; name the file"),
        (["--entry-point", "a.py"], "--entry-point needs --source"),
        (["--instances", "0"], "--instances 0: a job has at least one"),
        (["--instances", "2"], "--instances 2 needs an image and an engine"),
        (["--container-arguments", "fit"], "--container-arguments need an image"),
        (["--max-runtime", "0"], "--max-runtime 0: at least 1"),
        (["--spot-interrupt", "5 x2"], '--spot-interrupt "5 x2" is not of the form 30 or 30x5'),
        (["--metric", "loss=loss=.*"], "loss=.* has no group in parentheses for the value"),
        (["--metric", "loss=("], "( is no regular expression"),
        (["--metric", f"loss={'(a)' * 200}"], "regular expressions of 1 to 500"),
        (["--metric-definitions", "/no/such/file"], "/no/such/file cannot be read"),
        (["--metric-definitions", "pyproject.toml"], 'is not of the form [{"Name": "loss"'),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_built(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "job").exists()
