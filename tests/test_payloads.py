"""docs/payloads.md is true: its examples are answered as shown, its tables are the code's."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from serve.decoders import DECODERS
from serve.encoders import ENCODERS
from serve.errors import RequestError, UserCodeRefusal
from serve.parameters import table as parameters
from serve.settings import table as variables
from tests.serve.conftest import ROOT, Server, client_of, load, server  # noqa: F401, a fixture

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = (ROOT / "docs/payloads.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```http( batch)?\n(POST .*?)\n```\n\n```http\n(.*?)\n```", TEXT, re.DOTALL)
ANYTHING = "…"


def rows(heading: str, text: str = TEXT) -> list[list[str]]:
    """Return the cells of the table under a heading."""
    section = text.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def clients(logistic_model: Path) -> dict[str, FlaskClient]:
    return {
        "": client_of(load(logistic_model)),
        " batch": client_of(load(logistic_model, SAGEMAKER_BATCH="true"), SAGEMAKER_BATCH="true"),
    }


def alike(shown: Any, found: Any) -> bool:
    """Return whether an answer is as shown, but for numbers and what is ANYTHING."""
    if shown == ANYTHING:
        return True
    if isinstance(shown, float):
        return isinstance(found, float)
    if isinstance(shown, list) and isinstance(found, list):
        return len(shown) == len(found) and all(map(alike, shown, found))
    if isinstance(shown, dict) and isinstance(found, dict):
        return set(shown) == set(found) and all(alike(shown[key], found[key]) for key in shown)
    return bool(shown == found)


def parsed(media_type: str, body: str) -> Any:
    if media_type == "application/json":
        return json.loads(body)
    if media_type == "application/jsonlines":
        return [json.loads(line) for line in body.split("\n")]
    assert media_type == "text/csv"
    cells = list(csv.reader(io.StringIO(body, newline="")))
    return [
        [float(cell) if re.fullmatch(r"[0-9.]+", cell) else cell for cell in row] for row in cells
    ]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == len(re.findall("```http", TEXT)) / 2 > 5


@pytest.mark.parametrize(("mode", "request_", "answer"), EXAMPLES)
def test_an_example_is_answered_as_shown(
    clients: dict[str, FlaskClient], mode: str, request_: str, answer: str
) -> None:
    head, _, body = request_.partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    found = clients[mode].post("/invocations", data=body.encode(), headers=headers)
    (status, media_type), shown = answer.partition("\n\n")[0].split("\nContent-Type: "), answer
    assert (str(found.status_code), found.content_type) == (status, media_type)
    shown = answer.partition("\n\n")[2]
    assert alike(parsed(media_type, shown), parsed(media_type, found.text.rstrip("\n"))), found.text


@pytest.mark.parametrize(
    "body", [body for row in rows("Payloads", README) for body in names(row[0])]
)
def test_a_body_of_the_readme_is_answered(clients: dict[str, FlaskClient], body: str) -> None:
    found = clients[""].post("/invocations", data=body.encode(), content_type="application/json")
    assert found.status_code == 200, found.text
    assert len(json.loads(found.data)) >= 1


def test_the_python_example_runs(server: Server) -> None:  # noqa: F811
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(code.replace("http://localhost:8080", server.url), variables)
    assert variables["scores"].shape == (2, 2)
    np.testing.assert_allclose(variables["scores"].sum(1), 1, atol=1e-5)


def test_the_table_of_bodies_is_the_codes() -> None:
    assert [name for row in rows("Bodies") for name in names(row[0])] == list(DECODERS)


def test_every_format_of_answers_is_named() -> None:
    assert set(ENCODERS) == set(DECODERS) - {"text/plain"}
    for media_type in (
        "application/json",
        "application/jsonlines",
        "text/csv",
        "application/x-npy",
    ):
        assert f"`{media_type}`" in TEXT.split("## Answers")[1].split("## ")[0]


def test_the_table_of_parameters_is_the_codes() -> None:
    assert [(name.strip("`"), allowed) for name, allowed, _ in rows("Parameters")] == list(
        parameters()
    )


def test_the_table_of_errors_is_the_codes() -> None:
    told = {(name, int(status)) for status, codes, _ in rows("Errors") for name in names(codes)}
    known = {
        (error.code, error.status) for error in RequestError.__subclasses__()
        if error is not UserCodeRefusal
    }  # fmt: skip
    flask = {("not_found", 404), ("method_not_allowed", 405), ("internal_error", 500)}
    assert told == known | flask
    assert f"`{UserCodeRefusal.code}`" in TEXT


def test_the_table_of_limits_has_the_defaults() -> None:
    defaults = {name: default for name, default, _ in variables()}
    limits = {names(by)[0]: default for _, default, by in rows("Limits")[:-1]}
    assert limits == {name: defaults[name] for name in limits}
