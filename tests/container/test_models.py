"""A multi-model endpoint in its image, under the strictest rules and with little memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.container.running import STRICT, wait_for
from tests.serve.models import with_its_own_encoder

pytestmark = pytest.mark.container

NAMES = ("first", "second", "third", "fourth")
Docker = Callable[..., subprocess.CompletedProcess[str]]

# A container without a network can be asked only from within.
ASK = """\
import json, sys, urllib.error, urllib.request
method, path, *body = sys.argv[1:]
request = urllib.request.Request(
    "http://127.0.0.1:8080" + path, *map(str.encode, body), method=method,
    headers={"Content-Type": "application/json"},
)
try:
    answer = urllib.request.urlopen(request, timeout=120)
except urllib.error.HTTPError as error:
    answer = error
except urllib.error.URLError:
    sys.exit(1)
print(answer.status, answer.read().decode() or "null")
"""


class Endpoint:
    """A container that is managed as the platform does it."""

    def __init__(self, docker: Docker, container: str) -> None:
        self._docker, self._container = docker, container

    def __call__(self, *request: str) -> tuple[int, object]:
        """Return status and body of an answer; 0 while nothing answers."""
        done = self._docker("exec", self._container, "python3", "-c", ASK, *request, check=False)
        if done.returncode:
            return 0, self._docker("logs", self._container, check=False).stdout
        status, _, body = done.stdout.partition(" ")
        return int(status), json.loads(body)

    def load(self, name: str) -> int:
        wish = {"model_name": name, "url": f"/opt/ml/models/{name}/model"}
        return self("POST", "/models", json.dumps(wish))[0]

    def labels(self, name: str) -> object:
        status, body = self("POST", f"/models/{name}/invoke", '["Flood in the valley"]')
        return [answer["label"] for answer in body] if isinstance(body, list) else status


@pytest.fixture
def models(tmp_path: Path, logistic_model: Path) -> Path:
    """Return what the platform mounts as /opt/ml/models: four models, no encoder in common."""
    for number, name in enumerate(NAMES):
        (tmp_path / "models" / name).mkdir(parents=True)
        with_its_own_encoder(logistic_model, tmp_path / "models" / name / "model", number)
    for path in (tmp_path, *tmp_path.parents[:2]):  # pytest makes them for their owner alone
        path.chmod(0o755)
    return tmp_path / "models"


def test_models_are_managed_within_the_memory_of_the_container(
    docker: Docker, image: Callable[[str], str], models: Path, start: Callable[..., str]
) -> None:
    volume = f"--volume={models}:/opt/ml/models:ro"
    limits = ("--memory=400m", "--memory-swap=400m", "--env=SAGEMAKER_MULTI_MODEL=true")
    endpoint = Endpoint(docker, start(*STRICT, *limits, volume, image("serve")))
    wait_for(lambda: endpoint("GET", "/ping") == (200, None))
    assert endpoint("GET", "/models") == (200, {"models": []})
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
        assert endpoint("DELETE", f"/models/{unloaded}")[0] == 200
        assert endpoint.labels(unloaded) == 404
        status = endpoint.load(refused)
    assert status == 200
    assert endpoint.labels(refused) == ["disaster"]
