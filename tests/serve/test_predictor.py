"""A multi-label model and pairs of texts, from training to answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from serve.app import create_app
from serve.predictor import Predictor
from serve.settings import Settings
from tests.train.trees import make_tree, messages, train
from textmodel.classifier import TextClassifier, load_classifier
from textmodel.tokenizer import Text

TEXTS: list[Text] = [text for text, _ in messages(200, 240)]
PAIRS: list[Text] = [(f"{a}", f"{b}") for a, b in zip(TEXTS[:8], TEXTS[8:16], strict=True)]


def tags(text: str, label: str) -> list[str]:
    return [label] * (label == "disaster") + ["long"] * (len(text) > 80)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        json.dumps({"text": text, "label": tags(text, label)}) for text, label in messages(0, 200)
    ]
    root = make_tree(
        tmp_path_factory.mktemp("tags") / "ml",
        {"train": {"data.jsonl": "\n".join(rows)}},
        {"recipe": "logistic"},
    )
    code, log = train(root)
    assert code == 0, log
    return root


@pytest.fixture(scope="module")
def classifier(model: Path) -> TextClassifier:
    return load_classifier(model / "model")


@pytest.fixture(scope="module")
def client(model: Path) -> FlaskClient:
    predictor = Predictor()
    predictor.load(Settings.from_environment({"SAGEMAKER_BASE_DIR": str(model)}))
    return create_app(predictor, max_body=100_000).test_client()


def ask(client: FlaskClient, body: Any) -> Any:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def as_body(text: Text) -> Any:
    return text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


def test_each_text_is_answered_with_the_labels_that_apply(
    client: FlaskClient, classifier: TextClassifier
) -> None:
    answers = ask(client, {"inputs": TEXTS})
    for answer, scores in zip(answers, classifier.predict(TEXTS), strict=True):
        clear = {label for label, s in zip(classifier.labels, scores, strict=True) if s > 0.52}
        maybe = {label for label, s in zip(classifier.labels, scores, strict=True) if s > 0.48}
        assert clear <= {one["label"] for one in answer} <= maybe
    assert {len(answer) for answer in answers} == {0, 1, 2}


def test_labels_stand_best_first_with_their_own_scores(client: FlaskClient) -> None:
    answers = ask(client, {"inputs": TEXTS, "parameters": {"top_k": None}})
    for first, second in answers:
        assert first["score"] >= second["score"]
    assert any(abs(one["score"] + two["score"] - 1) > 0.1 for one, two in answers)


def test_top_k_answers_with_that_many_labels_whatever_their_scores(client: FlaskClient) -> None:
    answers = ask(client, {"inputs": TEXTS, "parameters": {"top_k": 1}})
    assert [len(answer) for answer in answers] == [1] * len(TEXTS)
    assert min(answer[0]["score"] for answer in answers) < 0.5


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_batch_answers_as_its_texts_do_alone(client: FlaskClient, texts: list[Text]) -> None:
    body = {"inputs": [as_body(text) for text in texts], "parameters": {"top_k": None}}
    alone = [ask(client, body | {"inputs": as_body(text)})[0] for text in texts]
    for one, other in zip(ask(client, body), alone, strict=True):
        scores = [{label["label"]: label["score"] for label in answer} for answer in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_pair_is_read_as_a_pair(client: FlaskClient, classifier: TextClassifier) -> None:
    body = {"inputs": [as_body(pair) for pair in PAIRS], "parameters": {"top_k": None}}
    answers = ask(client, body)
    found = [
        [{one["label"]: one["score"] for one in answer}[label] for label in classifier.labels]
        for answer in answers
    ]
    np.testing.assert_allclose(found, classifier.predict(PAIRS), atol=0.02)
    first = [pair[0] for pair in PAIRS]
    assert np.abs(np.array(found) - classifier.predict(first)).max() > 0.1


def test_evaluation_is_the_multi_label_one(model: Path) -> None:
    report = json.loads((model / "output/data/evaluation.json").read_text())["validation"]
    manifest = json.loads((model / "model/optml.json").read_text())
    assert manifest["multi_label"]
    assert set(report["counts_per_label"]) == {"disaster", "long"}
    assert manifest["metrics"]["validation_micro_f1"] == report["micro_f1"] > 0.5
