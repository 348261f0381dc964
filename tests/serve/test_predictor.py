"""A multi-label model and pairs of texts, from training to answer; large requests in windows."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from serve import predictor as predictor_module
from serve.batcher import Job
from serve.errors import BadRequest, ClientGone, NotReady, RequestError, TooLate
from serve.invocation import Clock
from serve.predictor import Predictor
from serve.records import Record
from serve.tasks import Failure
from tests.serve.conftest import client_of, load, settings, wait_until
from tests.train.trees import make_tree, messages, train
from textmodel.artifact import ArtifactError
from textmodel.classifier import TextClassifier, load_classifier
from textmodel.tokenizer import Text

TEXTS: list[Text] = [text for text, _ in messages(200, 240)]
PAIRS: list[Text] = [(f"{a}", f"{b}") for a, b in zip(TEXTS[:8], TEXTS[8:16], strict=True)]


def tags(text: str, label: str) -> list[str]:
    return [label] * (label == "disaster") + ["long"] * (len(text) > 80)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def classifier(tree: Path) -> TextClassifier:
    return load_classifier(tree / "model")


@pytest.fixture(scope="module")
def client(tree: Path) -> FlaskClient:
    return client_of(load(tree))


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


def test_evaluation_is_the_multi_label_one(tree: Path) -> None:
    report = json.loads((tree / "output/data/evaluation.json").read_text())["validation"]
    manifest = json.loads((tree / "model/optml.json").read_text())
    assert manifest["multi_label"]
    assert set(report["counts_per_label"]) == {"disaster", "long"}
    assert manifest["metrics"]["validation_micro_f1"] == report["micro_f1"] > 0.5


@pytest.fixture(scope="module")
def pair_client(logistic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    """Return a client of a model whose manifest says that it was trained on pairs."""
    tree = tmp_path_factory.mktemp("pairs")
    shutil.copytree(logistic_model / "model", tree / "model")
    manifest = json.loads((tree / "model/optml.json").read_text())
    (tree / "model/optml.json").write_text(json.dumps(manifest | {"pairs": True}))
    return client_of(load(tree))


def test_a_model_of_pairs_refuses_a_single_text(pair_client: FlaskClient) -> None:
    assert ask(pair_client, as_body(PAIRS[0]))[0]["label"]
    answer = pair_client.post("/invocations", json="a text")
    assert answer.status_code == 400
    assert "this model reads pairs" in answer.text


def test_rows_of_two_columns_are_a_pair_only_for_a_model_of_pairs(
    client: FlaskClient, pair_client: FlaskClient
) -> None:
    rows = {"data": "1,a text\n2,another\n", "content_type": "text/csv"}
    refused = client.post("/invocations", **rows)
    assert (refused.status_code, "no header names the text" in refused.text) == (400, True)
    answer = pair_client.post("/invocations", **rows)
    assert (answer.status_code, len(answer.text.splitlines())) == (200, 2)


# Windows


@pytest.fixture(scope="module")
def predictor(logistic_model: Path) -> Predictor:
    loaded = Predictor()
    loaded.load(logistic_model / "model", settings())
    return loaded


@pytest.fixture
def jobs(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[Job[Any]]:
    """Have windows of 70 texts; return the jobs that are made of them."""
    made: list[Job[Any]] = []
    whole, batcher = predictor._prepare, predictor._batcher
    assert batcher is not None
    wait_until(lambda: batcher.waiting_tokens == 0)

    def prepare(*arguments: Any) -> Any:
        window = whole(*arguments)
        made.append(window.job)
        return window

    monkeypatch.setattr(predictor_module, "WINDOW_TEXTS", 70)
    monkeypatch.setattr(predictor, "_prepare", prepare)
    return made


def records(count: int) -> Iterator[Record]:
    return (Record([f"{TEXTS[number % 40]} {number}"]) for number in range(count))


def scores(predictor: Predictor, given: Iterator[Any], clock: Clock | None = None) -> list[float]:
    return [answer.array().max() for answer in predictor(given, clock or Clock())]


def test_a_large_request_is_answered_in_order_across_windows(
    predictor: Predictor, jobs: list[Job[Any]]
) -> None:
    together = scores(predictor, records(160))
    assert [len(job.tokens) for job in jobs] == [70, 70, 20]
    alone = [scores(predictor, iter([record]))[0] for record in records(160)]
    np.testing.assert_allclose(together, alone, atol=0.02)


def test_a_window_of_long_texts_is_smaller(
    predictor: Predictor, jobs: list[Job[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "WINDOW_CHARACTERS", 50)
    texts: list[Text] = ["x" * 30, ("y" * 15, "y" * 15), "z", "z" * 60]
    assert len(scores(predictor, (Record([text]) for text in texts))) == 4
    assert [len(job.tokens) for job in jobs] == [2, 2]


def test_records_are_read_two_windows_ahead_at_most(
    predictor: Predictor, jobs: list[Job[Any]]
) -> None:
    read = 0

    def counted() -> Iterator[Record]:
        nonlocal read
        for record in records(350):
            read += 1
            yield record

    for number, _ in enumerate(predictor(counted(), Clock())):
        assert read <= (number // 70 + 2) * 70
    assert read == 350


def test_a_bad_record_stands_in_its_place(predictor: Predictor, jobs: list[Job[Any]]) -> None:
    bad = {0: BadRequest("zero"), 69: BadRequest("sixty-nine"), 149: BadRequest("last")}
    given: list[Record | RequestError] = [
        bad.get(n, record) for n, record in enumerate(records(150))
    ]
    answers = list(predictor(given, Clock()))
    assert {n for n, answer in enumerate(answers) if isinstance(answer, Failure)} == set(bad)
    assert len(answers) == 150


def test_only_bad_records_need_no_model(predictor: Predictor) -> None:
    answers = list(predictor([BadRequest("a")] * 200, Clock()))
    assert all(isinstance(answer, Failure) for answer in answers)


def test_what_a_gone_client_left_is_dropped(predictor: Predictor, jobs: list[Job[Any]]) -> None:
    answers = predictor(records(10_000), Clock(gone=lambda: bool(jobs)))
    with pytest.raises(ClientGone):
        list(answers)
    assert jobs[-1].cancelled
    assert len(jobs) < 100


def test_what_is_too_late_is_dropped(predictor: Predictor, jobs: list[Job[Any]]) -> None:
    with pytest.raises(TooLate):
        list(predictor(records(10_000), Clock(deadline=time.monotonic() + 0.05)))
    assert jobs[-1].cancelled


def test_a_body_that_breaks_off_leaves_nothing_behind(
    predictor: Predictor, jobs: list[Job[Any]]
) -> None:
    def broken() -> Iterator[Record]:
        yield from records(100)
        raise BadRequest("the body ended")

    with pytest.raises(BadRequest):
        list(predictor(broken(), Clock()))
    assert all(job.cancelled for job in jobs)


def test_an_answer_that_is_no_longer_read_leaves_nothing_behind(
    predictor: Predictor, jobs: list[Job[Any]]
) -> None:
    answers = predictor(records(1000), Clock())
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert all(job.cancelled for job in jobs)


def test_the_clock_tells_where_the_time_went(predictor: Predictor) -> None:
    clock = Clock()
    scores(predictor, records(10), clock)
    assert clock.deadline == math.inf
    assert clock.seconds["tokenize"] > 0
    assert clock.seconds["model"] > 0


# Loading


def test_a_predictor_that_is_not_loaded_says_so() -> None:
    with pytest.raises(NotReady, match="still being loaded"):
        list(Predictor()(records(1), Clock()))


def test_a_model_that_gives_no_numbers_is_not_served(
    logistic_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "textmodel.heads.Linear.__call__", lambda self, features: features[:, :2] * np.nan
    )
    with pytest.raises(ArtifactError, match="NaN"):
        Predictor().load(logistic_model / "model", settings())
