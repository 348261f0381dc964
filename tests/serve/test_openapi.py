"""docs/openapi.yaml is true: the server answers what it says, to whatever fits it and does not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serve.app import create_app
from serve.errors import ClientGone, RequestError
from serve.models import Models
from tests.serve.conftest import ROOT, load
from tests.serve.conftest import settings as settings_of

DOCUMENT = ROOT / "docs/openapi.yaml"


@schemathesis.serializer("application/jsonlines", "application/x-ndjson", "text/csv")
def as_it_is(context: Any, value: Any) -> bytes:
    return str(value).encode()


@schemathesis.serializer("application/x-npy")
def as_array(context: Any, value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([f"text {value!r}"]))
    return file.getvalue()


DESCRIBED = schemathesis.openapi.from_path(DOCUMENT)
OPERATIONS = [
    (path, method) for path in DESCRIBED for method in DESCRIBED[path] if method != "parameters"
]
SAME_EVERY_TIME = settings(
    max_examples=100, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def one_model(logistic_model: Path) -> Flask:
    return create_app(load(logistic_model), settings_of())


@pytest.fixture(scope="module")
def many_models(logistic_model: Path) -> Flask:
    models = Models(settings_of(SAGEMAKER_MULTI_MODEL="true"))
    models.load("a", str(logistic_model / "model"))
    return create_app(models, settings_of(SAGEMAKER_MULTI_MODEL="true"))


@pytest.mark.parametrize("app", ["one_model", "many_models"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_the_document_allows_is_answered_as_it_says(
    app: str, path: str, method: str, request: pytest.FixtureRequest
) -> None:
    described = schemathesis.openapi.from_path(DOCUMENT)
    described.app = request.getfixturevalue(app)
    unknown_names = [positive_data_acceptance] if "models" in path + app else []

    @SAME_EVERY_TIME
    @given(case=described[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def answered(case: Any) -> None:
        case.call_and_validate(excluded_checks=unknown_names)

    answered()


def test_what_the_document_forbids_is_refused_as_it_says(one_model: Flask) -> None:
    described = schemathesis.openapi.from_path(DOCUMENT)
    described.app = one_model
    operation = described["/invocations"]["post"]

    @SAME_EVERY_TIME
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def refused(case: Any) -> None:
        assume(case.media_type == "application/json")  # anything is a body of the other types
        case.call_and_validate()

    refused()


def test_every_route_is_described(one_model: Flask, many_models: Flask) -> None:
    rules = [*one_model.url_map.iter_rules(), *many_models.url_map.iter_rules()]
    served = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in rules
        for method in (rule.methods or set()) - {"OPTIONS"}
        if rule.endpoint != "static" and "<path:" not in rule.rule
    }
    implied = {(path, method) for path, method in served if method == "head"}
    assert served - implied == {(path, method) for path, method in OPERATIONS if method != "head"}


def test_every_code_of_an_error_is_described() -> None:
    codes = {error.code for error in RequestError.__subclasses__()} - {ClientGone.code}
    schema = DESCRIBED.raw_schema["components"]["schemas"]["Error"]
    assert set(schema["properties"]["error"]["properties"]["code"]["enum"]) == {
        *codes,
        "internal_error",
        "method_not_allowed",
        "not_found",
    }
