"""`python -m local_test serve` and `batch` with the image: the platform's rules, and boto3."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_test.hosting import MODES, Endpoint, HostingError, host
from local_test.loopback import listen, serving
from local_test.programs import Engine, find_engine
from local_test.runtime_api import create_app
from local_test.transform import Job, parameters, transform
from tests.container.running import missing
from tests.local_test.test_runtime_api import client_of

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]

SLOW = """
import os, time

def model_fn(model_dir):
    return str.upper

def predict_fn(data, model):
    time.sleep(data.get("parameters", {}).get("seconds", 0))
    return model(data["inputs"])
"""


@pytest.fixture(scope="module")
def engine(docker: Docker) -> Engine:
    return find_engine() or missing("no engine answers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of which the program answers in capitals, after as long as it is asked to."""
    directory = tmp_path_factory.mktemp("hosting") / "model"
    (directory / "code").mkdir(parents=True)
    (directory / "code/inference.py").write_text(SLOW)
    for path in (directory.parent, *directory.parent.parents[:2]):  # pytest makes them for itself
        path.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def endpoint(engine: Engine, image: Callable[[str], str], model: Path) -> Iterator[Endpoint]:
    with host(engine, image("serve"), model, MODES["serverless"]) as endpoint:
        endpoint.wait_until_healthy()
        yield endpoint


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[Any]:
    with listen(0) as listener, serving(create_app(endpoint, "mine"), listener) as address:
        yield client_of(address)


def test_boto3_is_answered(client: Any) -> None:
    answer = client.invoke_endpoint(
        EndpointName="mine",
        ContentType="application/json",
        Body=json.dumps({"inputs": "flood"}),
        CustomAttributes="trace=7",
    )
    assert json.load(answer["Body"]) == "FLOOD"
    assert answer["CustomAttributes"] == "trace=7"


def test_refusal_of_the_container_is_a_model_error(client: Any) -> None:
    with pytest.raises(client.exceptions.ModelError) as caught:
        client.invoke_endpoint(EndpointName="mine", ContentType="application/json", Body="{")
    assert caught.value.response["OriginalStatusCode"] == 400
    assert json.loads(caught.value.response["OriginalMessage"])["error"]["code"]


def test_container_is_shut_in(docker: Docker, endpoint: Endpoint) -> None:
    name = endpoint.program.name
    for path in ("/opt/ml/model/x", "/x"):
        assert "Read-only" in docker("exec", name, "touch", path, check=False).stderr
    docker("exec", name, "touch", "/tmp/x")
    assert docker("exec", name, "id", "-u").stdout == "65534\n"
    gate = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    assert docker("exec", name, "python3", "-c", gate, check=False).returncode


def test_batch_transform_keeps_the_order(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [{"inputs": f"row {number}"} for number in range(20)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = parameters(endpoint, {"strategy": "SINGLE_RECORD", "concurrent": 4})
    job = Job(by_lines=True, assemble_lines=True, content_type="application/json")
    assert transform(endpoint, job, how, source, tmp_path / "out") == (20, 20)
    answers = (tmp_path / "out").read_text().splitlines()
    assert answers == [f'"ROW {number}"' for number in range(20)]


def test_model_that_cannot_be_loaded_ends_the_start(
    engine: Engine, image: Callable[[str], str], docker: Docker
) -> None:
    with host(engine, image("serve"), None, MODES["realtime"]) as endpoint:
        with pytest.raises(HostingError, match=r"ended with exit status [0-9]+ before /ping"):
            endpoint.wait_until_healthy()
        name = endpoint.program.name
    assert docker("inspect", name, check=False).returncode


def test_request_in_hand_is_answered_at_the_stop(
    engine: Engine, image: Callable[[str], str], model: Path
) -> None:
    answers = []
    body = b'{"inputs": "late", "parameters": {"seconds": 4}}'
    with host(engine, image("serve"), model, MODES["realtime"]) as endpoint:
        endpoint.wait_until_healthy()
        headers = {"Content-Type": "application/json"}
        asking = threading.Thread(target=lambda: answers.append(endpoint.invoke(body, headers)))
        asking.start()
        asking.join(1.5)
        assert asking.is_alive()
        assert endpoint.stop() < 30
        asking.join()
        assert endpoint.program.wait() == 0
    assert [answer.body for answer in answers] == [b'"LATE"']
