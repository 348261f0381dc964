"""local_test/opt_ml.py builds the tree that SageMaker builds, and refuses what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "local_test" / "opt_ml.py"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "opt_ml"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("text,label\nfire,1\n")
    return path


@pytest.fixture
def run(tree: Path) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, PROGRAM, tree, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    return call


@pytest.fixture
def build(run: Run) -> Callable[..., None]:
    def call(*arguments: str | Path) -> None:
        done = run(*arguments)
        assert done.returncode == 0, done.stderr

    return call


def _config(tree: Path, name: str) -> Any:
    return json.loads((tree / "input" / "config" / f"{name}.json").read_text())


def _paths(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")} - {".made_by_local_test"}


def test_tree_is_exactly_the_documented_one(
    tree: Path, csv: Path, build: Callable[..., None]
) -> None:
    build("--channel", f"train={csv}")
    assert _paths(tree) == {
        "checkpoints",
        "input",
        "input/config",
        "input/config/hyperparameters.json",
        "input/config/inputdataconfig.json",
        "input/config/resourceconfig.json",
        "input/data",
        "input/data/train",
        "input/data/train/train.csv",
        "model",
        "output",
        "output/data",
    }


def test_config_files_are_written_as_the_service_writes_them(
    tree: Path, csv: Path, build: Callable[..., None]
) -> None:
    build(
        *("--channel", f"train={csv}", "--channel", f"test={csv}"),
        *("--content-type", "train=text/csv; header=present"),
        *("--hyperparameter", "lr=3e-5", "--hyperparameter", "query=a=b"),
    )
    assert _config(tree, "hyperparameters") == {"lr": "3e-5", "query": "a=b"}
    always = {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    assert _config(tree, "inputdataconfig") == {
        "train": {"ContentType": "text/csv; header=present", **always},
        "test": always,
    }
    assert _config(tree, "resourceconfig") == {
        "current_host": "algo-1",
        "current_instance_type": "ml.m5.xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.m5.xlarge",
                "hosts": ["algo-1"],
            }
        ],
        "network_interface_name": "eth0",
    }


def test_a_job_may_have_no_channel_and_no_hyperparameter(
    tree: Path, build: Callable[..., None]
) -> None:
    build()
    assert _config(tree, "inputdataconfig") == _config(tree, "hyperparameters") == {}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("bert", '"bert"'),
        ("3e-5", "3e-5"),
        ("true", "true"),
        ("", '""'),
        ('{"a": 1}', '{"a": 1}'),
        ('"7"', '"7"'),
    ],
)
def test_sdk_v2_sends_strings_in_quotes(
    tree: Path, build: Callable[..., None], given: str, sent: str
) -> None:
    build("--quoting", "sdk-v2", "--hyperparameter", f"key={given}")
    assert _config(tree, "hyperparameters") == {"key": sent}


def test_directory_becomes_the_channel(
    tree: Path, csv: Path, tmp_path: Path, build: Callable[..., None]
) -> None:
    (tmp_path / "data" / "part").mkdir(parents=True)
    (tmp_path / "data" / "part" / "0.csv").symlink_to(csv)
    build("--channel", f"my-data.v1={tmp_path / 'data'}")
    copy = tree / "input" / "data" / "my-data.v1" / "part" / "0.csv"
    assert copy.read_text() == csv.read_text()
    assert not copy.is_symlink()


def test_any_user_can_read_the_input_and_write_the_rest(
    tree: Path, tmp_path: Path, csv: Path, build: Callable[..., None]
) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    csv.rename(tmp_path / "data" / "train.csv").chmod(0o600)
    build("--channel", f"train={tmp_path / 'data'}")
    modes = {
        name: (tree / name).stat().st_mode & 0o777
        for name in ("model", "output", "output/data", "checkpoints", "input/data/train")
    }
    assert modes == dict.fromkeys(["model", "output", "output/data", "checkpoints"], 0o777) | {
        "input/data/train": 0o755
    }
    assert (tree / "input/data/train/train.csv").stat().st_mode & 0o777 == 0o644


def test_what_an_earlier_job_left_is_removed(
    tree: Path, csv: Path, build: Callable[..., None]
) -> None:
    build("--channel", f"old={csv}")
    left = ["model/weights", "model.tar.gz", "output/failure", "output/data/x", "checkpoints/1"]
    for name in left:
        (tree / name).touch()
    build("--keep-checkpoints", "--channel", f"new={csv}")
    assert _paths(tree) & {*left, "input/data/old"} == {"checkpoints/1"}
    build()
    assert not (tree / "checkpoints" / "1").exists()


def test_directory_of_someone_else_is_left_alone(tree: Path, run: Run) -> None:
    (tree / "model").mkdir(parents=True)
    (tree / "model" / "precious").touch()
    done = run()
    assert done.returncode == 2
    assert f"{tree} is not empty and was not made by this program" in done.stderr
    assert _paths(tree) == {"model", "model/precious"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hyperparameter", "epochs"], '"epochs" is not of the form key=value'),
        (["--hyperparameter", "=2"], '"=2" is not of the form key=value'),
        (["--hyperparameter", "a=1", "--hyperparameter", "a=2"], '"a" is given twice'),
        (["--hyperparameter", f"{'k' * 257}=1"], "SageMaker allows 256"),
        (["--hyperparameter", f"k={'v' * 2501}"], "SageMaker allows 2500"),
        (
            [word for i in range(101) for word in ("--hyperparameter", f"k{i}=1")],
            "101 hyperparameters; SageMaker allows 100",
        ),
        (["--channel", "train"], '"train" is not of the form key=value'),
        (["--channel", "train=/no/such/path"], "/no/such/path does not exist"),
        (["--channel", "my data=/etc/hostname"], 'channel name "my data" is not allowed'),
        (["--channel", f"{'c' * 65}=/etc/hostname"], "1 to 64 of the characters"),
        (["--channel", "..=/etc/hostname"], 'channel name ".." is not allowed'),
        (["--channel", "a/b=/etc/hostname"], 'channel name "a/b" is not allowed'),
        (
            [word for i in range(21) for word in ("--channel", f"c{i}=/etc/hostname")],
            "21 channels; SageMaker allows 20",
        ),
        (["--content-type", "train=text/csv"], 'unknown channel "train"; channels: none'),
        (["--quoting", "sdk-v1"], "sdk-v2"),
    ],
)
def test_error_names_the_rule_and_builds_nothing(
    tree: Path, run: Run, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not tree.exists()


def test_channel_and_tree_may_not_contain_one_another(
    tree: Path, tmp_path: Path, csv: Path, build: Callable[..., None], run: Run
) -> None:
    build("--channel", f"train={csv}")
    for path in (tmp_path, tree, tree / "input" / "data" / "train"):
        done = run("--channel", f"train={path}")
        assert done.returncode == 2
        assert "contain one another" in done.stderr
    assert (tree / "input" / "data" / "train" / "train.csv").is_file()
