"""The three scripts of local_test/ with this repository's own programs, without containers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LOCAL_TEST = Path(__file__).parents[2] / "local_test"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bare") / "opt_ml"


@pytest.fixture(scope="module")
def run(tree: Path) -> Run:
    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LOCAL_TEST / script, *arguments],
            env=os.environ | {"PYTHON": sys.executable, "OPT_ML": str(tree)},
            capture_output=True,
            text=True,
            timeout=540,
        )

    return call


@pytest.fixture(scope="module")
def archive(run: Run, tree: Path) -> Path:
    """Train, and return model.tar.gz."""
    done = run("train_local.sh", "--", "n_estimators=20")
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "model.tar.gz"


@pytest.fixture(scope="module")
def port(run: Run, archive: Path) -> Iterator[str]:
    """Serve the trained model, and yield the port."""
    assert archive.is_file()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = str(probe.getsockname()[1])
    done = run("serve_local.sh", "--port", number, "--detach")
    assert done.returncode == 0, done.stderr
    yield number
    done = run("serve_local.sh", "--port", number, "--stop")
    assert done.returncode == 0, done.stderr


def test_model_is_at_the_root_of_the_archive(archive: Path) -> None:
    with tarfile.open(archive) as members:
        assert {"optml.json", "head"} <= set(members.getnames())


def test_sample_messages_are_told_apart(run: Run, port: str) -> None:
    done = run("predict.sh", str(LOCAL_TEST / "payload.json"), "--port", port)
    assert done.returncode == 0, done.stderr
    assert [answer["label"] for answer in json.loads(done.stdout)] == ["disaster", "other"]


def test_one_message_gets_one_label_with_a_score(run: Run, port: str) -> None:
    done = run("predict.sh", '{"inputs": "The river has burst its banks"}', "--port", port)
    (answer,) = json.loads(done.stdout)
    assert answer["label"] in {"disaster", "other"}
    assert 0.5 <= answer["score"] <= 1


def test_faulty_request_is_refused(run: Run, port: str) -> None:
    done = run("predict.sh", '{"inputs": ', "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert "status 400" in done.stderr


def test_own_script_runs_anew_each_time(run: Run, tree: Path, tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "train.py").write_text(
            "import os; from pathlib import Path\n"
            f"Path(os.environ['SM_MODEL_DIR'], 'model.txt').write_text('{content}')\n"
        )
        done = run("train_local.sh", "--source", str(tmp_path), "--", "epochs=3")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tree / "model/model.txt").read_text() == content
