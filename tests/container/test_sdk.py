"""The SageMaker Python SDK, versions 2 and 3, in local mode with the image `both`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.running import missing

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "local_test/data"
ROLE = "arn:aws:iam::123456789012:role/any"

SCRIPT = """\
import json, os, sys
import helper
with open(os.path.join(os.environ["SM_MODEL_DIR"], "told.json"), "w") as file:
    told = {name: os.environ[name] for name in ("SM_HPS", "SM_CHANNEL_TRAIN")}
    json.dump({"arguments": sys.argv[1:], "helper": helper.VALUE} | told, file)
"""

# What both programs get: image, role, source directory, data, a directory of their own, a port.
BEGIN = """\
import json, sys
image, role, source, data, root, port = sys.argv[1:]
given = {"epochs": 3, "name": "a b", "flag": True}
"""

SDK_2 = (
    BEGIN
    + """\
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.serializers import JSONSerializer
session = LocalSession()
session.config = {
    "local": {"local_code": True, "serving_port": int(port), "container_root": root + "/jobs"}
}
def fit(name, instances=1, **more):
    estimator = Estimator(
        image, role, instance_count=instances, instance_type="local", sagemaker_session=session,
        output_path=f"file://{root}/{name}", **more,
    )
    estimator.fit({"train": f"file://{data}"})
    return estimator
"""
)

SDK_2_ONE_INSTANCE = (
    SDK_2
    + """\
fit("script", entry_point="train.py", source_dir=source, hyperparameters=given)
estimator = fit("recipe", hyperparameters={"recipe": "forest", "n_estimators": 20})
predictor = estimator.deploy(
    1, "local", serializer=JSONSerializer(), deserializer=JSONDeserializer()
)
try:
    answer = predictor.predict({"inputs": ["Ten people are missing in the flood", "I love pizza"]})
finally:
    predictor.delete_endpoint()
transformer = estimator.transformer(
    1, "local", strategy="MultiRecord", assemble_with="Line", accept="text/csv",
    output_path=f"file://{root}/transformed",
)
transformer.transform(
    f"file://{root}/rows", content_type="text/csv", split_type="Line", logs=False
)
print("\\nRESULT" + json.dumps(answer))
"""
)

SDK_3 = (
    BEGIN
    + """\
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.model_trainer import Mode
def fit(name, instances=1, **more):
    ModelTrainer(
        training_image=image, training_mode=Mode.LOCAL_CONTAINER, role=role, base_job_name="test",
        compute=Compute(instance_type="local_cpu", instance_count=instances),
        local_container_root=f"{root}/{name}", **more,
    ).train(input_data_config=[InputData(channel_name="train", data_source=data)])
"""
)

SDK_3_ONE_INSTANCE = (
    SDK_3
    + """\
code = SourceCode(source_dir=source, entry_script="train.py", requirements="requirements.txt")
fit("script", source_code=code, hyperparameters=given)
fit("recipe", hyperparameters={"recipe": "forest", "n_estimators": 20})
"""
)

TWO_INSTANCES = 'fit("recipe", instances=2, hyperparameters={"recipe": "logistic"})'


@pytest.fixture
def directory(docker: Docker, tmp_path: Path) -> Iterator[Path]:
    """Yield the directory of a session; the containers and the networks it leaves are removed."""
    for name in ("jobs", "script", "recipe", "rows"):
        (tmp_path / name).mkdir()
    yield tmp_path

    def listed(what: tuple[str, ...], label: str, form: str) -> list[str]:
        command = (*what, "--filter", f"label={label}", "--format", form)
        return docker(*command).stdout.splitlines()

    project = "com.docker.compose.project"
    place = f'{{{{.Label "{project}.working_dir"}}}}'
    projects = set()
    for line in listed(("ps", "--all"), project, f'{{{{.ID}}}} {{{{.Label "{project}"}}}} {place}'):
        container, name, directory = line.split()
        if Path(directory).is_relative_to(tmp_path):
            docker("rm", "--force", container)
            projects.add(name)
    for name in projects:
        for network in listed(("network", "ls"), f"{project}={name}", "{{.ID}}"):
            docker("network", "rm", network)
    docker("network", "rm", "sagemaker-local", check=False)  # which version 2 keeps for all


@pytest.fixture
def run(directory: Path, image: Callable[[str], str], docker: Docker) -> Callable[[int, str], str]:
    """Return a function that runs a program with one of the SDKs, and returns what it prints."""
    source = directory / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    (source / "helper.py").write_text("VALUE = 7")
    (source / "requirements.txt").write_text("torch>=2\n")
    programs = directory / "bin"
    programs.mkdir()
    # Version 2 accepts no compose whose version is printed without a "v", unless it is called so.
    (programs / "docker-compose").write_text('#!/bin/sh\nexec docker compose "$@"\n')
    (programs / "docker-compose").chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(version: int, program: str) -> str:
        python = ROOT / f".venv-sdk{version}/bin/python"
        if not python.exists():
            missing("the SDK is not installed (make sdks)")
        if docker("compose", "version", check=False).returncode:
            missing("docker compose is not installed")
        (directory / "program.py").write_text(program)
        arguments = [image("both"), ROLE, str(source), str(DATA), str(directory), str(port)]
        done = subprocess.run(
            [python, directory / "program.py", *arguments],
            env=os.environ
            | {
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "HOME": str(directory),
            },
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    return call


def read(archive: Path, name: str) -> Any:
    shutil.unpack_archive(archive, archive.parent / "unpacked", filter="data")
    return json.loads((archive.parent / "unpacked" / name).read_text())


def test_sdk_2_runs_a_script_and_trains_deploys_asks_and_transforms_with_a_recipe(
    run: Callable[[int, str], str], directory: Path
) -> None:
    (directory / "rows/rows.csv").write_text("Ten people are missing in the flood\nI love pizza\n")
    answer = json.loads(run(2, SDK_2_ONE_INSTANCE).rpartition("RESULT")[2].splitlines()[0])
    assert [one["label"] for one in answer] == ["disaster", "other"]
    rows = (directory / "transformed/rows.csv.out").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows if row] == ["disaster", "other"]
    assert read(directory / "script/model.tar.gz", "told.json") == {
        "arguments": ["--epochs", "3", "--flag", "True", "--name", "a b"],
        "helper": 7,
        "SM_HPS": '{"epochs":3,"flag":true,"name":"a b"}',
        "SM_CHANNEL_TRAIN": "/opt/ml/input/data/train",
    }
    assert read(directory / "recipe/model.tar.gz", "optml.json")["recipe"] == "forest"


def test_sdk_3_runs_a_script_and_trains_a_recipe(
    run: Callable[[int, str], str], directory: Path
) -> None:
    run(3, SDK_3_ONE_INSTANCE)
    told = read(directory / "script/compressed_artifacts/model.tar.gz", "told.json")
    assert told["helper"] == 7
    assert json.loads(told["SM_HPS"]) == {"epochs": 3, "name": "a b", "flag": True}
    recipe = directory / "recipe/compressed_artifacts/model.tar.gz"
    assert read(recipe, "optml.json")["recipe"] == "forest"


def hosts_that_read(log: str) -> set[str]:
    return set(re.findall(r"algo-(\d)[^|\n]*\|.* channel train: \d+ rows", log))


def test_sdk_2_trains_on_two_instances(run: Callable[[int, str], str], directory: Path) -> None:
    told = run(2, SDK_2 + TWO_INSTANCES)
    assert hosts_that_read(told) == {"1", "2"}
    assert read(directory / "recipe/model.tar.gz", "optml.json")["recipe"] == "logistic"


def test_sdk_3_trains_on_two_instances(run: Callable[[int, str], str], directory: Path) -> None:
    told = run(3, SDK_3 + TWO_INSTANCES)
    assert hosts_that_read(told) == {"1", "2"}
    archive = directory / "recipe/compressed_artifacts/model.tar.gz"
    assert read(archive, "optml.json")["recipe"] == "logistic"
