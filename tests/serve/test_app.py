from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from serve.app import create_app
from serve.predictor import Predictor
from serve.settings import Settings

TEXTS = ["Wildfire closes the highway", "I baked bread", "Flood in the valley, people rescued"]


def body(answer: TestResponse) -> Any:
    return json.loads(answer.data)


@pytest.fixture(scope="module")
def predictor(logistic_model: Path) -> Predictor:
    loaded = Predictor()
    loaded.load(Settings.from_environment({"SAGEMAKER_BASE_DIR": str(logistic_model)}))
    return loaded


@pytest.fixture
def client(predictor: Predictor) -> Iterator[FlaskClient]:
    with create_app(predictor, max_body=100_000).test_client() as client:
        yield client


def test_ping_is_503_with_the_reason_until_the_model_is_loaded() -> None:
    answer = create_app(Predictor(), 1000).test_client().get("/ping")
    assert answer.status_code == 503
    assert "loaded" in body(answer)["error"]["message"]


def test_an_invocation_before_the_model_is_loaded_is_503() -> None:
    answer = create_app(Predictor(), 1000).test_client().post("/invocations", json="a")
    assert (answer.status_code, body(answer)["error"]["code"]) == (503, "not_ready")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_ping_is_200_with_an_empty_body_when_the_model_is_ready(
    client: FlaskClient, method: str
) -> None:
    answer = client.open("/ping", method=method)
    assert (answer.status_code, answer.data) == (200, b"")


def test_one_text_is_answered_with_its_best_label(client: FlaskClient) -> None:
    (answer,) = body(client.post("/invocations", json={"inputs": TEXTS[0]}))
    assert answer["label"] == "disaster"
    assert 0.5 < answer["score"] <= 1


def test_top_k_answers_with_the_best_labels_in_order(client: FlaskClient) -> None:
    request = {"inputs": TEXTS, "parameters": {"top_k": 9}}
    answers = body(client.post("/invocations", json=request))
    assert [len(answer) for answer in answers] == [2, 2, 2]
    for first, second in answers:
        assert first["score"] >= second["score"]
        assert first["score"] + second["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("top_k", [0, -1, "2", 1.5, True])
def test_a_top_k_that_is_none_is_refused(client: FlaskClient, top_k: object) -> None:
    request = {"inputs": "a", "parameters": {"top_k": top_k}}
    answer = client.post("/invocations", json=request)
    assert answer.status_code == 400
    assert "top_k" in body(answer)["error"]["message"]


def test_an_unknown_parameter_is_refused_naming_the_known_one(client: FlaskClient) -> None:
    answer = client.post("/invocations", json={"inputs": "a", "parameters": {"topk": 1}})
    assert answer.status_code == 400
    assert "'topk'; known is 'top_k'" in body(answer)["error"]["message"]


def test_a_batch_answers_as_its_texts_do_alone(client: FlaskClient) -> None:
    together = body(client.post("/invocations", json=TEXTS * 20))
    alone = [body(client.post("/invocations", json=text))[0] for text in TEXTS] * 20
    assert [answer["label"] for answer in together] == [answer["label"] for answer in alone]
    np.testing.assert_allclose(
        [answer["score"] for answer in together], [answer["score"] for answer in alone], atol=0.02
    )


def test_a_text_of_100000_characters_is_answered(client: FlaskClient) -> None:
    assert client.post("/invocations", json="flood " * 16_000).status_code == 200


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"data": b"{", "content_type": "application/json"}, 400, "bad_request"),
        ({"data": b"a", "content_type": "image/png"}, 415, "unsupported_media_type"),
        ({"json": "a", "headers": {"Accept": "image/png"}}, 406, "not_acceptable"),
        ({"json": "a" * 100_001}, 413, "too_large"),
    ],
)
def test_a_bad_request_gets_its_status_and_a_json_body(
    client: FlaskClient, request_: dict[str, object], status: int, code: str
) -> None:
    answer = client.post("/invocations", **request_)
    assert answer.status_code == status
    assert set(body(answer)) == {"error"}
    assert body(answer)["error"]["code"] == code
    assert body(answer)["error"]["request_id"] == answer.headers["X-Request-Id"]


def test_an_unknown_route_names_the_known_ones(client: FlaskClient) -> None:
    answer = client.get("/predict")
    assert answer.status_code == 404
    assert "POST /invocations" in body(answer)["error"]["message"]


def test_a_fault_of_the_server_is_500_and_its_traceback_is_in_the_log_alone(
    client: FlaskClient, predictor: Predictor, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def broken(batch: object) -> object:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(predictor._batcher, "_run", broken)
    answer = client.post("/invocations", json="a")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert body(answer)["error"]["request_id"] in caplog.text
    assert "secret detail" in caplog.text
