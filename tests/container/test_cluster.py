"""Two containers as the two hosts of a job, each with a tree of its own, and a network."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_test.opt_ml import build
from tests.container.running import STRICT, wait_for

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., str]

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = ROOT / "local_test/data/messages.csv"


class Hosts:
    """The hosts algo-1 and algo-2."""

    def __init__(self, docker: Docker, start: Start, image: str, parent: Path) -> None:
        self._docker, self._start, self._image, self._parent = docker, start, image, parent
        self._network = f"test-{uuid.uuid4().hex[:12]}"
        self._containers: dict[str, str] = {}
        docker("network", "create", "--internal", self._network)

    def start(self, host: str, rows: Path, **hyperparameters: object) -> None:
        tree = self.tree(host)
        build(
            tree,
            {"train": rows, "test": MESSAGES},
            {},
            {name: str(value) for name, value in hyperparameters.items()},
            hosts=["algo-1", "algo-2"],
            host=host,
        )
        for path in (self._parent, *self._parent.parents[:2]):  # pytest makes them for their owner
            path.chmod(0o755)
        where = (f"--network={self._network}", f"--network-alias={host}", f"--hostname={host}")
        volume = f"--volume={tree}:/opt/ml"
        # More threads than cores wait for each other most of the time.
        self._containers[host] = self._start(
            *where, *STRICT[1:], "--cpus=1", volume, self._image, "train"
        )

    def tree(self, host: str) -> Path:
        return self._parent / host

    def log(self, host: str) -> str:
        return self._docker("logs", self._containers[host]).stdout

    def kill(self, host: str) -> None:
        self._docker("kill", self._containers[host])

    def wait(self, host: str) -> int:
        """Return the exit code of a host, once it has ended."""
        return int(self._docker("wait", self._containers[host]).stdout)

    def remove(self) -> None:
        for container in self._containers.values():
            self._docker("rm", "--force", container)
        self._docker("network", "rm", self._network)


@pytest.fixture
def hosts(
    docker: Docker, start: Start, image: Callable[[str], str], tmp_path: Path
) -> Iterator[Hosts]:
    hosts = Hosts(docker, start, image("train"), tmp_path)
    yield hosts
    hosts.remove()


@pytest.mark.parametrize("recipe", ["forest", "logistic", "finetune"])
def test_two_hosts_train_one_model_though_one_starts_later(hosts: Hosts, recipe: str) -> None:
    settings = {"recipe": recipe, "n_estimators": 20, "epochs": 1}
    hosts.start("algo-1", MESSAGES, **settings)
    wait_for(lambda: "waiting for host algo-2" in hosts.log("algo-1"))
    hosts.start("algo-2", MESSAGES, **settings)
    for host in ("algo-1", "algo-2"):
        assert hosts.wait(host) == 0, hosts.log(host)
    assert (hosts.tree("algo-1") / "model/optml.json").exists()
    assert (hosts.tree("algo-1") / "output/data/evaluation.json").exists()
    assert list((hosts.tree("algo-2") / "model").iterdir()) == []
    assert list((hosts.tree("algo-2") / "output/data").iterdir()) == []


@pytest.mark.parametrize("recipe", ["logistic", "finetune"])
@pytest.mark.parametrize(("killed", "other"), [("algo-1", "algo-2"), ("algo-2", "algo-1")])
def test_host_that_is_killed_ends_the_other_with_the_reason(
    hosts: Hosts, tmp_path: Path, recipe: str, killed: str, other: str
) -> None:
    rows = tmp_path / "rows.csv"
    lines = (f"text {number},{number % 2}\n" for number in range(300_000))
    rows.write_text("text,label\n" + "".join(lines))
    for host in ("algo-1", "algo-2"):
        hosts.start(host, rows, recipe=recipe, max_length=4)
    wait_for(lambda: "channel test: " in hosts.log(killed))
    hosts.kill(killed)
    assert hosts.wait(killed) == 137
    assert hosts.wait(other) == 1, hosts.log(other)
    failure = (hosts.tree(other) / "output/failure").read_text(encoding="utf-8")
    assert failure.startswith("another process of this job has ended or cannot be reached")
    assert not (hosts.tree("algo-1") / "model/optml.json").exists()
