"""docs/local_test.md is true: its requests are sent to moto and to a served model, as shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from local_test.__main__ import COMMANDS
from local_test.hosting import MB, MODES, free_port, host
from local_test.loopback import listen, serving
from local_test.runtime_api import create_app
from train.hyperparameters import parse
from train.metrics import METRIC_REGEX

TEXT = (Path(__file__).parents[2] / "docs/local_test.md").read_text(encoding="utf-8")
JOURNEY = TEXT.split("## From your laptop to SageMaker\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def said(logistic_model: Path) -> Iterator[dict[str, Any]]:
    """Run the journey's code with moto as AWS and a model here as its endpoint; yield its names."""
    port = free_port()
    aws = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    aws.start()
    with (
        host(None, None, logistic_model / "model", MODES["realtime"]) as endpoint,
        listen(0) as listener,
        serving(create_app(endpoint, "messages-1"), listener) as runtime,
        pytest.MonkeyPatch.context() as variables,
    ):
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_CONFIG_FILE": "/dev/null",
        }.items():
            variables.setenv(name, value)
        variables.setattr(boto3, "DEFAULT_SESSION", None)
        endpoint.wait_until_healthy()
        names: dict[str, Any] = {}
        for code in re.findall(r"```python\n(.*?)```", JOURNEY, re.DOTALL):
            exec(code, names)
        yield names
        names["sagemaker"].close()
        names["runtime"].close()
    aws.stop()


def test_training_job_is_described_as_it_was_asked_for(said: dict[str, Any]) -> None:
    job = said["job"]
    assert job["TrainingJobStatus"] == "Completed"
    assert job["EnableManagedSpotTraining"]
    assert job["InputDataConfig"][0]["ContentType"] == "text/csv"


def test_hyperparameters_and_metric_are_those_of_train(said: dict[str, Any]) -> None:
    assert parse(said["job"]["HyperParameters"]).recipe == "finetune"
    # moto describes metrics of its own
    ((name, regex),) = re.findall(r'"Name": "(.*?)",\s+"Regex": "(.*?)",', JOURNEY)
    assert regex == METRIC_REGEX.format(name=name).replace("\\", "\\\\")


def test_endpoint_is_in_service_with_the_models_configuration(said: dict[str, Any]) -> None:
    client = said["sagemaker"]
    endpoint = client.describe_endpoint(EndpointName="messages-1")
    assert endpoint["EndpointStatus"] == "InService"
    config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = client.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    assert model["PrimaryContainer"]["Image"] == said["image"]
    assert (
        model["PrimaryContainer"]["ModelDataUrl"]
        == said["job"]["ModelArtifacts"]["S3ModelArtifacts"]
    )


def test_script_that_asks_is_answered_by_the_model_here(said: dict[str, Any]) -> None:
    assert said["labels"] == ["disaster", "other"]


def test_transform_job_is_described_as_it_was_asked_for(said: dict[str, Any]) -> None:
    job = said["sagemaker"].describe_transform_job(TransformJobName="messages-1")
    assert (job["BatchStrategy"], job["MaxPayloadInMB"]) == ("MultiRecord", 6)
    assert job["TransformInput"]["SplitType"] == "Line"


def test_table_of_modes_is_the_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) MB \| (\d+) s \| (\d+) s \|", TEXT, re.MULTILINE)
    assert [(name, int(mb), float(s), float(start)) for name, mb, s, start in rows] == [
        (name, mode.payload // MB, mode.invocation, mode.startup) for name, mode in MODES.items()
    ]


def test_commands_shown_are_known() -> None:
    assert set(re.findall(r"python -m local_test ([a-z]+)", TEXT)) <= set(COMMANDS)
