from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import serve.models
from serve.app import create_app
from serve.errors import NoMemory, NoModel
from serve.invocation import Clock
from serve.memo import Memo
from serve.models import Models
from serve.settings import Settings
from serve.text_model import TextModel
from tests.serve.models import MB, relabelled
from textmodel.hardware import Choice

MANY = Settings.from_environment({"SAGEMAKER_MULTI_MODEL": "true"})
EVICTING = Settings.from_environment(
    {"SAGEMAKER_MULTI_MODEL": "true", "OPTML_MODELS_EVICT": "true"}
)
TEXT = "Wildfire closes the highway"
Ask = Callable[..., TestResponse]


class Memory:
    """Free memory that is as much as a test says."""

    def __init__(self, *megabytes: int) -> None:
        self.megabytes = list(megabytes)
        """One for each look; the last one stays."""

    def __call__(self) -> Choice[int]:
        free = self.megabytes.pop(0) if len(self.megabytes) > 1 else self.megabytes[0]
        return Choice("free_memory", free * MB, "a test says so")


@pytest.fixture(scope="module")
def directories(
    tmp_path_factory: pytest.TempPathFactory, logistic_model: Path, forest_model: Path
) -> dict[str, Path]:
    """Return directories of models by the first of their two labels."""
    root = tmp_path_factory.mktemp("models")
    return {
        "red": relabelled(logistic_model, root / "red", "red", "rot"),
        "blue": relabelled(forest_model, root / "blue", "blue", "blau"),
    }


@pytest.fixture
def models() -> Iterator[Models]:
    registry = Models(MANY)
    yield registry
    for model in registry.page()[0]:
        registry.unload(model.name)


@pytest.fixture
def client(models: Models) -> FlaskClient:
    return create_app(models, MANY).test_client()


@pytest.fixture
def loaded(client: FlaskClient, directories: dict[str, Path]) -> FlaskClient:
    for name, directory in directories.items():
        assert load(client, name, directory).status_code == 200
    return client


def load(client: FlaskClient, name: str, directory: Path) -> TestResponse:
    return client.post("/models", json={"model_name": name, "url": str(directory)})


def ask(client: FlaskClient, name: str, body: Any = TEXT, **headers: str) -> TestResponse:
    return client.post(f"/models/{name}/invoke", json=body, headers=headers)


def label(answer: TestResponse) -> str:
    assert answer.status_code == 200, answer.text
    best: str = json.loads(answer.data)[0]["label"]
    return best


def code(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, json.loads(answer.data)["error"]["code"]


def wait_for_users(models: Models, name: str) -> None:
    while not models._entries[name].users:
        time.sleep(0.001)


def answers(models: Models, name: str) -> bool:
    client = create_app(models, MANY).test_client()
    return label(ask(client, name)) == name


def test_ping_is_200_without_a_model(client: FlaskClient) -> None:
    answer = client.get("/ping")
    assert (answer.status_code, answer.data) == (200, b"")


def test_each_model_answers_with_its_own_labels(loaded: FlaskClient) -> None:
    assert [label(ask(loaded, name)) for name in ("red", "blue", "red")] == ["red", "blue", "red"]


def test_a_loaded_model_is_described_and_listed(
    loaded: FlaskClient, directories: dict[str, Path]
) -> None:
    red = {"modelName": "red", "modelUrl": str(directories["red"])}
    assert json.loads(loaded.get("/models/red").data) == red
    listed = json.loads(loaded.get("/models").data)
    assert [model["modelName"] for model in listed["models"]] == ["blue", "red"]
    assert red in listed["models"]
    assert "nextPageToken" not in listed


def test_the_list_comes_in_pages(loaded: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.models, "PAGE", 1)
    first = json.loads(loaded.get("/models").data)
    token = first["nextPageToken"]
    second = json.loads(loaded.get("/models", query_string={"next_page_token": token}).data)
    assert [page["models"][0]["modelName"] for page in (first, second)] == ["blue", "red"]
    assert "nextPageToken" not in second


def test_an_unknown_model_is_404(client: FlaskClient) -> None:
    unknown = (404, "model_not_found")
    assert code(client.get("/models/red")) == unknown
    assert code(client.delete("/models/red")) == unknown
    assert code(ask(client, "red")) == unknown


def test_a_model_that_is_loaded_already_is_409(
    loaded: FlaskClient, directories: dict[str, Path]
) -> None:
    assert code(load(loaded, "red", directories["blue"])) == (409, "model_exists")
    assert label(ask(loaded, "red")) == "red"


def test_of_simultaneous_loads_of_a_name_one_succeeds(
    client: FlaskClient, directories: dict[str, Path]
) -> None:
    app = client.application
    with ThreadPoolExecutor(8) as clients:
        loads = [
            clients.submit(load, app.test_client(), "red", directories["red"]) for _ in range(8)
        ]
        statuses = sorted(answer.result().status_code for answer in loads)
    assert statuses == [200, *[409] * 7]


def test_an_unloaded_model_is_404_and_can_be_loaded_again(
    loaded: FlaskClient, directories: dict[str, Path]
) -> None:
    assert loaded.delete("/models/red").status_code == 200
    assert code(ask(loaded, "red")) == (404, "model_not_found")
    assert label(ask(loaded, "blue")) == "blue"
    assert load(loaded, "red", directories["red"]).status_code == 200
    assert label(ask(loaded, "red")) == "red"


@pytest.mark.parametrize("url", ["/nowhere", "/etc/passwd", "/" + "x" * 5000, "\0"])
def test_what_is_no_directory_is_400(client: FlaskClient, url: str) -> None:
    answer = load(client, "red", Path(url))
    assert code(answer) == (400, "bad_model")
    assert len(answer.data) < 1000


def test_a_damaged_model_is_400_with_the_cause_and_leaves_nothing(
    client: FlaskClient, tmp_path: Path, logistic_model: Path, directories: dict[str, Path]
) -> None:
    shutil.copytree(logistic_model / "model", tmp_path / "model")
    (tmp_path / "model/openvino/encoder.bin").write_bytes(b"damage")
    answer = load(client, "red", tmp_path / "model")
    assert code(answer) == (400, "bad_model")
    assert "encoder.bin is not the file" in answer.text
    assert json.loads(client.get("/models").data) == {"models": []}
    assert load(client, "red", directories["red"]).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, [], "red", {"model_name": "red"}, {"model_name": "a/b", "url": "/tmp"}]
)
def test_a_wish_that_names_no_model_is_400_and_shows_how(client: FlaskClient, body: Any) -> None:
    answer = client.post("/models", json=body)
    assert code(answer) == (400, "bad_request")
    assert "model_name" in answer.text


def test_an_answer_has_the_headers_of_an_invocation(loaded: FlaskClient) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    answer = ask(loaded, "red", **{name: "mine", "X-Amzn-SageMaker-Target-Model": "red.tar.gz"})
    assert answer.headers[name] == "mine"
    assert "model;dur=" in answer.headers["Server-Timing"]
    assert answer.headers["X-Request-Id"]


def test_a_failed_request_is_logged_with_its_model(
    loaded: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ask(loaded, "red", {"wrong": 1}, **{"X-Amzn-SageMaker-Target-Model": "red.tar.gz"})
    (line,) = [record for record in caplog.records if "/invoke" in record.getMessage()]
    assert (line.__dict__["model"], line.__dict__["target_model"]) == ("red", "red.tar.gz")


def test_the_routes_of_one_model_and_of_many_name_each_other(client: FlaskClient) -> None:
    answer = client.post("/invocations", json=TEXT)
    assert answer.status_code == 404
    assert "/models/NAME/invoke" in answer.text
    one = create_app(TextModel(), Settings.from_environment({})).test_client()
    for answer in (one.get("/models"), ask(one, "red"), one.delete("/models/red")):
        assert answer.status_code == 404
        assert "SAGEMAKER_MULTI_MODEL=true" in answer.text


def test_a_model_that_does_not_fit_is_507_and_the_others_stay(directories: dict[str, Path]) -> None:
    models = Models(MANY, free=Memory(1000, 1000, 100))
    client = create_app(models, MANY).test_client()
    assert load(client, "red", directories["red"]).status_code == 200
    answer = load(client, "blue", directories["blue"])
    assert code(answer) == (507, "insufficient_memory")
    assert "100 MB are free (a test says so)" in answer.text
    assert [model.name for model in models.page()[0]] == ["red"]
    assert answers(models, "red")


def test_where_it_is_wished_the_least_recently_used_model_makes_room(
    directories: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    models = Models(EVICTING, free=(memory := Memory(1000)))
    for name in ("first", "second"):
        models.load(name, str(directories["red"]))
    with models.using("first", Clock()):
        pass
    memory.megabytes = [1, 1000]
    models.load("blue", str(directories["blue"]))
    assert "model 'second' gives its memory" in caplog.text
    assert "model 'first' gives its memory" not in caplog.text


def test_a_model_that_made_room_stays_listed_and_is_loaded_for_its_next_request(
    directories: dict[str, Path],
) -> None:
    models = Models(EVICTING, free=(memory := Memory(1000)))
    models.load("red", str(directories["red"]))
    memory.megabytes = [1, 1000]
    models.load("blue", str(directories["blue"]))
    assert [model.name for model in models.page()[0]] == ["blue", "red"]
    assert answers(models, "red")
    assert answers(models, "blue")


def test_a_model_in_use_makes_no_room(directories: dict[str, Path]) -> None:
    models = Models(EVICTING, free=(memory := Memory(1000)))
    models.load("red", str(directories["red"]))
    memory.megabytes = [1]
    with models.using("red", Clock()), pytest.raises(NoMemory):
        models.load("blue", str(directories["blue"]))


def test_memory_that_runs_out_in_a_request_is_507(directories: dict[str, Path]) -> None:
    models = Models(MANY)
    models.load("red", str(directories["red"]))
    with pytest.raises(NoMemory), models.using("red", Clock()):
        bytearray(2**62)


def test_a_new_worker_has_the_models_of_the_one_that_was_lost(directories: dict[str, Path]) -> None:
    memo = Memo()
    lost = Models(MANY, memo)
    for name, directory in directories.items():
        lost.load(name, str(directory))
    lost.unload("blue")
    following = Models(MANY, memo)
    assert [model.name for model in following.page()[0]] == ["red"]
    assert answers(following, "red")


def test_unloading_lets_requests_in_hand_be_answered(
    loaded: FlaskClient, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.models, "LEAVE", 600.0)
    texts = [f"a long text {number} " * 60 for number in range(40)]
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(ask, loaded.application.test_client(), "red", texts)
        wait_for_users(models, "red")
        assert loaded.delete("/models/red").status_code == 200
    assert len(json.loads(answer.result().data)) == len(texts)


def test_requests_that_take_too_long_fail_cleanly_when_their_model_is_unloaded(
    loaded: FlaskClient, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.models, "LEAVE", 0.0)
    texts = [f"a long text {number} " * 60 for number in range(300)]
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(ask, loaded.application.test_client(), "red", texts)
        wait_for_users(models, "red")
        assert loaded.delete("/models/red").status_code == 200
    assert code(answer.result()) == (503, "not_ready")
    assert "unloaded" in answer.result().text


def test_a_model_that_is_being_unloaded_is_asked_no_more(
    models: Models, directories: dict[str, Path]
) -> None:
    models.load("red", str(directories["red"]))
    with ThreadPoolExecutor(1) as other:
        with models.using("red", Clock()):
            unloading = other.submit(models.unload, "red")
            while models.page()[0]:
                time.sleep(0.01)
            with pytest.raises(NoModel), models.using("red", Clock()):
                pass
            assert not unloading.done()
        unloading.result(60)


def test_ping_is_503_once_no_loaded_model_can_be_asked(loaded: FlaskClient, models: Models) -> None:
    expected = {"red": 200, "blue": 503}
    for name, status in expected.items():
        with models.using(name, Clock()) as model:
            assert isinstance(model, TextModel)
            assert model._predictor._batcher
            model._predictor._batcher.broken = True
        assert loaded.get("/ping").status_code == status


def test_others_are_answered_while_models_come_and_go(
    loaded: FlaskClient, directories: dict[str, Path]
) -> None:
    app, ended = loaded.application, threading.Event()

    def keep_asking(name: str) -> set[str | int]:
        client, seen = app.test_client(), set[str | int]()
        while not ended.is_set():
            answer = ask(client, name)
            seen.add(label(answer) if answer.status_code == 200 else answer.status_code)
        return seen

    with ThreadPoolExecutor(6) as clients:
        red = [clients.submit(keep_asking, "red") for _ in range(3)]
        blue = [clients.submit(keep_asking, "blue") for _ in range(3)]
        for _ in range(5):
            assert loaded.delete("/models/blue").status_code == 200
            assert load(loaded, "blue", directories["blue"]).status_code == 200
        ended.set()
        assert set().union(*(asked.result() for asked in red)) == {"red"}
        assert set().union(*(asked.result() for asked in blue)) == {"blue", 404}


def test_more_models_are_no_more_threads(loaded: FlaskClient, directories: dict[str, Path]) -> None:
    before = threading.active_count()
    for number in range(3):
        assert load(loaded, f"red-{number}", directories["red"]).status_code == 200
        assert label(ask(loaded, f"red-{number}")) == "red"
    assert threading.active_count() == before
