"""The tree is the one that SageMaker builds, and what SageMaker refuses is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from local_test import opt_ml
from local_test.opt_ml import TreeError

Build = Callable[..., None]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "opt_ml"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("text,label\nfire,1\n")
    return path


@pytest.fixture
def build(tree: Path) -> Build:
    def call(
        channels: Mapping[str, Path] | None = None,
        content_types: Mapping[str, str] | None = None,
        hyperparameters: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        opt_ml.build(tree, channels or {}, content_types or {}, hyperparameters or {}, **options)

    return call


def _config(tree: Path, name: str) -> Any:
    return json.loads((tree / "input" / "config" / f"{name}.json").read_text())


def _paths(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")} - {".made_by_local_test"}


def test_tree_is_exactly_the_documented_one(tree: Path, csv: Path, build: Build) -> None:
    build({"train": csv})
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
    tree: Path, csv: Path, build: Build
) -> None:
    build(
        {"train": csv, "test": csv},
        {"train": "text/csv; header=present"},
        {"lr": "3e-5", "query": "a=b"},
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


def test_a_job_may_have_no_channel_and_no_hyperparameter(tree: Path, build: Build) -> None:
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
def test_sdk_v2_sends_strings_in_quotes(given: str, sent: str) -> None:
    assert opt_ml.quote_as_sdk_v2(given) == sent


def test_directory_becomes_the_channel(tree: Path, csv: Path, tmp_path: Path, build: Build) -> None:
    (tmp_path / "data" / "part").mkdir(parents=True)
    (tmp_path / "data" / "part" / "0.csv").symlink_to(csv)
    build({"my-data.v1": tmp_path / "data"})
    copy = tree / "input" / "data" / "my-data.v1" / "part" / "0.csv"
    assert copy.read_text() == csv.read_text()
    assert not copy.is_symlink()


def test_any_user_can_read_the_input_and_write_the_rest(
    tree: Path, tmp_path: Path, csv: Path, build: Build
) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    csv.rename(tmp_path / "data" / "train.csv").chmod(0o600)
    build({"train": tmp_path / "data"})
    modes = {
        name: (tree / name).stat().st_mode & 0o777
        for name in ("model", "output", "output/data", "checkpoints", "input/data/train")
    }
    assert modes == dict.fromkeys(["model", "output", "output/data", "checkpoints"], 0o777) | {
        "input/data/train": 0o755
    }
    assert (tree / "input/data/train/train.csv").stat().st_mode & 0o777 == 0o644


def test_what_an_earlier_job_left_is_removed(tree: Path, csv: Path, build: Build) -> None:
    build({"old": csv})
    left = ["model/weights", "model.tar.gz", "output/failure", "output/data/x", "checkpoints/1"]
    left += ["algo-1", "output.tar.gz", "job.json"]
    for name in left:
        (tree / name).touch()
    build({"new": csv}, keep_checkpoints=True)
    assert _paths(tree) & {*left, "input/data/old"} == {"checkpoints/1"}
    build()
    assert not (tree / "checkpoints" / "1").exists()


def test_directory_of_someone_else_is_left_alone(tree: Path, build: Build) -> None:
    (tree / "model").mkdir(parents=True)
    (tree / "model" / "precious").touch()
    with pytest.raises(TreeError, match=f"{tree} is not empty and was not made by this program"):
        build()
    assert _paths(tree) == {"model", "model/precious"}


HERE = Path(__file__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hyperparameters": {"k" * 257: "1"}}, "SageMaker allows 256"),
        ({"hyperparameters": {"k": "v" * 2501}}, "SageMaker allows 2500"),
        (
            {"hyperparameters": {f"k{i}": "1" for i in range(101)}},
            "101 hyperparameters; SageMaker allows 100",
        ),
        ({"channels": {"train": Path("/no/such/path")}}, "/no/such/path does not exist"),
        ({"channels": {"my data": HERE}}, 'channel name "my data" is not allowed'),
        ({"channels": {"c" * 65: HERE}}, "1 to 64 of the characters"),
        ({"channels": {"..": HERE}}, r'channel name "\.\." is not allowed'),
        ({"channels": {"a/b": HERE}}, 'channel name "a/b" is not allowed'),
        ({"channels": {f"c{i}": HERE for i in range(21)}}, "21 channels; SageMaker allows 20"),
        ({"content_types": {"train": "text/csv"}}, 'unknown channel "train"; channels: none'),
        ({"sharded": ["train"]}, 'sharding for the unknown channel "train"'),
        (
            {"channels": {"train": HERE}, "input_modes": {"train": "Stream"}},
            'input mode "Stream" of train; allowed: File, FastFile, Pipe',
        ),
    ],
)
def test_error_names_the_rule_and_builds_nothing(
    tree: Path, build: Build, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TreeError, match=message):
        build(**arguments)
    assert not tree.exists()


def test_channel_and_tree_may_not_contain_one_another(
    tree: Path, tmp_path: Path, csv: Path, build: Build
) -> None:
    build({"train": csv})
    for path in (tmp_path, tree, tree / "input" / "data" / "train"):
        with pytest.raises(TreeError, match="contain one another"):
            build({"train": path})
    assert (tree / "input" / "data" / "train" / "train.csv").is_file()


def test_fast_file_is_written_as_file_and_pipes_have_no_directory(
    tree: Path, csv: Path, build: Build
) -> None:
    modes = {"fast": "FastFile", "pipe": "Pipe"}
    build({"fast": csv, "pipe": csv}, input_modes=modes)
    inputs = _config(tree, "inputdataconfig")
    assert {name: entry["TrainingInputMode"] for name, entry in inputs.items()} == {
        "fast": "File",
        "pipe": "Pipe",
    }
    assert _paths(tree / "input/data") == {"fast", "fast/train.csv"}


def test_hosts_are_sorted_as_texts_and_share_the_files_of_a_sharded_channel(
    tree: Path, tmp_path: Path, build: Build
) -> None:
    for name in ("d/0", "d/1/0", "e"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    hosts = ["algo-1", "algo-2", "algo-10"]
    found = {}
    for host in hosts:
        build({"train": tmp_path / "data"}, sharded=["train"], hosts=hosts, host=host)
        found[host] = {name for name in _paths(tree / "input/data/train") if name[-1] in "0e"}
    assert found == {"algo-1": {"d/0"}, "algo-2": {"d/1/0"}, "algo-10": {"e"}}
    assert _config(tree, "inputdataconfig")["train"]["S3DistributionType"] == "ShardedByS3Key"
    resources = _config(tree, "resourceconfig")
    assert resources["current_host"] == "algo-10"
    assert resources["hosts"] == ["algo-1", "algo-10", "algo-2"]
    assert resources["instance_groups"][0]["hosts"] == resources["hosts"]


def test_a_host_without_a_share_has_an_empty_directory(tree: Path, csv: Path, build: Build) -> None:
    hosts = ["algo-1", "algo-2"]
    build({"train": csv}, sharded=["train"], hosts=hosts, host="algo-2")
    assert _paths(tree / "input/data") == {"train"}
