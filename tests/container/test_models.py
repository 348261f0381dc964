"""A multi-model endpoint in its image, under the strictest rules and with little memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.container.running import STRICT, Docker, Endpoint, Start, open_to_all
from tests.serve.models import with_its_own_encoder

pytestmark = pytest.mark.container

NAMES = ("first", "second", "third", "fourth")


class MultiModelEndpoint(Endpoint):
    """A server that is managed as the platform does it."""

    def load(self, name: str) -> int:
        wish = {"model_name": name, "url": f"/opt/ml/models/{name}/model"}
        return self.ask("POST", "/models", json.dumps(wish)).status

    def unload(self, name: str) -> int:
        return self.ask("DELETE", f"/models/{name}").status

    def labels(self, name: str) -> object:
        answer = self.ask("POST", f"/models/{name}/invoke", '["Flood in the valley"]')
        return [one["label"] for one in answer.json()] if answer.status == 200 else answer.status


@pytest.fixture
def models(tmp_path: Path, logistic_model: Path) -> Path:
    """Return what the platform mounts as /opt/ml/models: four models, no encoder in common."""
    for number, name in enumerate(NAMES):
        (tmp_path / "models" / name).mkdir(parents=True)
        with_its_own_encoder(logistic_model, tmp_path / "models" / name / "model", number)
    return open_to_all(tmp_path) / "models"


def test_models_are_managed_within_the_memory_of_the_container(
    docker: Docker, image: Callable[[str], str], models: Path, start: Start
) -> None:
    volume = f"--volume={models}:/opt/ml/models:ro"
    limits = ("--memory=400m", "--memory-swap=400m", "--env=SAGEMAKER_MULTI_MODEL=true")
    endpoint = MultiModelEndpoint(docker, start(*STRICT, *limits, volume, image("serve")))
    endpoint.wait()
    assert endpoint.ask("GET", "/models").json() == {"models": []}
    loaded: list[str] = []
    for refused in NAMES:
        if (status := endpoint.load(refused)) != 200:
            break
        loaded.append(refused)
        assert endpoint.load(refused) == 409
    assert loaded
    assert status == 507
    assert [endpoint.labels(name) for name in loaded] == [["disaster"]] * len(loaded)
    while status == 507 and loaded:  # as the platform does it
        unloaded = loaded.pop(0)
        assert endpoint.unload(unloaded) == 200
        assert endpoint.labels(unloaded) == 404
        status = endpoint.load(refused)
    assert status == 200
    assert endpoint.labels(refused) == ["disaster"]
