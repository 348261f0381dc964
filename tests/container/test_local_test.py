"""local_test/ with containers: the platform's rules, then train, serve and predict."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.container.running import Docker, image_to_train

pytestmark = pytest.mark.container

Run = Callable[..., subprocess.CompletedProcess[str]]

LOCAL_TEST = Path(__file__).parents[2] / "local_test"

TRAIN = """\
#!/bin/bash
trap 'echo stopped > /opt/ml/model/state; exit 4' TERM
{
    echo "user $(id -u), host $(hostname) is $(getent hosts algo-1 | cut -d' ' -f1)"
    echo "interfaces $(ls /sys/class/net)"
    echo "job $TRAINING_JOB_NAME in $AWS_REGION, GREETING=$GREETING"
} > /opt/ml/model/state
echo ready
[[ $GREETING != wait ]] || while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local_test") / "opt_ml"


@pytest.fixture(scope="module")
def environment(tree: Path, search_path: str) -> dict[str, str]:
    return os.environ | {"PATH": search_path, "OPT_ML": str(tree), "AWS_REGION": "eu-central-1"}


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Run:
    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LOCAL_TEST / script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=540,
        )

    return call


@pytest.fixture(scope="module")
def stand_in(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield an image whose `train` tells what it sees."""
    with image_to_train(docker, tmp_path_factory.mktemp("stand_in"), TRAIN) as image:
        yield image


def test_job_runs_as_on_the_service(run: Run, tree: Path, stand_in: str) -> None:
    done = run("train_local.sh", stand_in, "--env", "GREETING=good day")
    assert done.returncode == 0, done.stderr
    user, interfaces, job = (tree / "model" / "state").read_text().splitlines()
    assert user == "user 0, host algo-1 is 127.0.0.1"
    assert interfaces == "interfaces lo"
    assert job.startswith("job local-")
    assert job.endswith(" in eu-central-1, GREETING=good day")


def test_stop_reaches_process_1_and_the_model_is_packed(
    docker: Docker, environment: dict[str, str], tree: Path, stand_in: str
) -> None:
    command = [str(LOCAL_TEST / "train_local.sh"), stand_in, "--env", "GREETING=wait"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(timeout=60) == 4
    with tarfile.open(tree / "model.tar.gz") as archive:
        assert archive.getnames() == ["state"]
    assert (tree / "model" / "state").read_text() == "stopped\n"
    assert not docker("ps", "--all", "--quiet", "--filter", f"ancestor={stand_in}").stdout


@pytest.fixture(scope="module", params=[("train", "serve"), ("both", "both")], ids="+".join)
def port(
    request: pytest.FixtureRequest, docker: Docker, image: Callable[[str], str], run: Run
) -> Iterator[str]:
    """Train in one image, serve in the other, and yield the port."""
    train, serve = (image(kind) for kind in request.param)
    done = run("train_local.sh", train, "--", "n_estimators=20")
    assert done.returncode == 0, done.stdout + done.stderr

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = str(probe.getsockname()[1])
    started = run("serve_local.sh", serve, "--port", number, "--detach")
    assert started.returncode == 0, started.stderr
    assert f"container optml-serve-{number}\n" in started.stderr
    yield number
    stopped = run("serve_local.sh", "--port", number, "--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not docker("ps", "--all", "--quiet", "--filter", f"name=optml-serve-{number}").stdout


def test_sample_messages_are_told_apart(run: Run, port: str) -> None:
    done = run("predict.sh", str(LOCAL_TEST / "payload.json"), "--port", port)
    assert done.returncode == 0, done.stderr
    assert [answer["label"] for answer in json.loads(done.stdout)] == ["disaster", "other"]


def test_server_sees_its_model_and_root_read_only(docker: Docker, port: str) -> None:
    name = f"optml-serve-{port}"
    for path in ("/opt/ml/model/x", "/x"):
        assert "Read-only" in docker("exec", name, "touch", path, check=False).stderr
    docker("exec", name, "touch", "/tmp/x")
    assert docker("port", name).stdout == f"8080/tcp -> 127.0.0.1:{port}\n"
