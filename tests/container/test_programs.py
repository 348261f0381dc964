"""The programs in their images, under the strictest rules that the platform may set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from local_test.opt_ml import build
from tests.container.running import STRICT, Docker, Endpoint, Start, open_to_all, wait_for

pytestmark = pytest.mark.container

ROOT = Path(__file__).resolve().parents[2]


def lay_out(parent: Path, **hyperparameters: object) -> Path:
    """Return an /opt/ml tree that any user of a container may use."""
    directory = parent / "opt_ml"
    settings = {name: str(value) for name, value in hyperparameters.items()}
    build(directory, {"train": ROOT / "local_test/data/messages.csv"}, {}, settings)
    open_to_all(parent)
    return directory


@pytest.fixture(scope="module")
def trained(
    docker: Docker, image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return an /opt/ml tree after a strict job of the train image."""
    directory = lay_out(tmp_path_factory.mktemp("job"), n_estimators=20)
    docker("run", "--rm", *STRICT, f"--volume={directory}:/opt/ml", image("train"), "train")
    return directory


@pytest.mark.parametrize("target", ["serve", "both"])
def test_serve_answers_without_network_on_a_read_only_root_as_nobody(
    docker: Docker, image: Callable[[str], str], trained: Path, start: Start, target: str
) -> None:
    model = f"--volume={trained}/model:/opt/ml/model:ro"
    endpoint = Endpoint(docker, start(*STRICT, model, image(target), "serve"))
    endpoint.wait()
    with (trained / "output/data/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    body = json.dumps({"inputs": [row["text"] for row in rows]})
    labels = [answer["label"] for answer in endpoint.invoke(body).json()]
    assert labels == [row["prediction"] for row in rows]


def test_an_idle_server_ends_on_sigterm_with_status_0(
    docker: Docker, image: Callable[[str], str], trained: Path, start: Start
) -> None:
    container = start(*STRICT, f"--volume={trained}/model:/opt/ml/model:ro", image("serve"))
    Endpoint(docker, container).wait()
    docker("stop", "--time=5", container)  # docker kills after 5 s, with status 137
    assert docker("inspect", "--format={{.State.ExitCode}}", container).stdout.strip() == "0"


def test_a_server_without_a_model_ends_with_the_cause_last(
    docker: Docker, image: Callable[[str], str]
) -> None:
    done = docker("run", "--rm", *STRICT, image("serve"), check=False)
    assert done.returncode == 1
    assert "holds no model" in (done.stdout + done.stderr).splitlines()[-1]


def test_a_job_at_fault_exits_1_and_names_the_cause_in_the_failure_file(
    docker: Docker, image: Callable[[str], str], tmp_path: Path
) -> None:
    directory = lay_out(tmp_path, recipe="xgboost")
    job = (*STRICT, f"--volume={directory}:/opt/ml", image("train"), "train")
    assert docker("run", "--rm", *job, check=False).returncode == 1
    failure = (directory / "output/failure").read_text()
    assert "recipe='xgboost'" in failure.splitlines()[0]
    assert "forest, logistic, finetune" in failure.splitlines()[0]


def test_a_fine_tuning_job_that_is_stopped_leaves_a_model_that_serves(
    docker: Docker, image: Callable[[str], str], tmp_path: Path, start: Start
) -> None:
    directory = lay_out(tmp_path, recipe="finetune", epochs=1000)
    container = start(*STRICT, f"--volume={directory}:/opt/ml", image("train"), "train")
    wait_for(lambda: "fine-tuning, steps: " in docker("logs", container).stdout)
    docker("stop", "--time=120", container)
    assert docker("inspect", "--format={{.State.ExitCode}}", container).stdout.strip() == "0"
    model = f"--volume={directory}/model:/opt/ml/model:ro"
    endpoint = Endpoint(docker, start(*STRICT, model, image("serve")))
    endpoint.wait()
    assert endpoint.invoke('"Flood in the valley"').json()[0]["label"]


def test_a_job_stopped_before_a_model_exists_says_so(
    docker: Docker, image: Callable[[str], str], tmp_path: Path, start: Start
) -> None:
    directory = lay_out(tmp_path, n_estimators=10_000)
    container = start(*STRICT, f"--volume={directory}:/opt/ml", image("train"), "train")
    wait_for(lambda: "embedding" in docker("logs", container).stdout)
    docker("stop", "--time=120", container)
    assert docker("inspect", "--format={{.State.ExitCode}}", container).stdout.strip() == "143"
    assert "stopped by SIGTERM" in (directory / "output/failure").read_text().splitlines()[0]
    assert not list((directory / "model").iterdir())
