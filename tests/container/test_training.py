"""`python -m local_test train` with a tiny image: what the platform gives it, and keeps from it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.running import Docker, image_to_train

pytestmark = pytest.mark.container

Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]

TRAIN = r"""#!/bin/bash
cd /opt/ml
host=$(hostname)
trap 'echo stopped > model/state; exit 4' TERM
eval "$(sed 's/^{"do": "//; s/"}$//' input/config/hyperparameters.json)"
"""


@pytest.fixture(scope="module")
def tiny(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield an image whose `train` runs the hyperparameter `do` as a script in /opt/ml."""
    with image_to_train(docker, tmp_path_factory.mktemp("tiny"), TRAIN) as name:
        yield name


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "job"


@pytest.fixture
def command(tiny: str, output: Path) -> Callable[..., list[str]]:
    """Return a function from a script and further options to the command line."""

    def make(do: str, *options: str) -> list[str]:
        program = [sys.executable, "-m", "local_test", "train", tiny, "--output", str(output)]
        return [*program, "--hyperparameter", f"do={do}", *options]

    return make


@pytest.fixture
def run(command: Callable[..., list[str]], search_path: str) -> Run:
    def call(do: str, *options: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": search_path, "AWS_REGION": "eu-central-1"}
        return subprocess.run(
            command(do, *options),
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


def described(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "job.json").read_text())
    return found


def names(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def test_a_container_is_alone_and_knows_its_job(run: Run, output: Path) -> None:
    done = run(
        "set -- $(getent hosts algo-1); "
        "echo $host $1 $(ls /sys/class/net) $AWS_REGION $HI $TRAINING_JOB_NAME",
        "--env=HI=hello",
    )
    assert done.returncode == 0, done.stderr
    job = described(output)
    expected = f"algo-1 127.0.0.1 lo eu-central-1 hello {job['TrainingJobName']}\n"
    assert done.stdout == expected
    assert job["TrainingJobStatus"] == "Completed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--container-entrypoint=echo"], "\n"),
        (["--container-entrypoint=echo 'a b'", "--container-arguments=c d"], "a b c d\n"),
        (["--container-arguments=ls /opt/ml/input"], "config\ndata\n"),
    ],
)
def test_entry_point_and_arguments_replace_train(run: Run, options: list[str], said: str) -> None:
    assert run("exit 1", *options).stdout == said


def test_network_isolation_can_be_lifted(run: Run) -> None:
    assert "eth0" in run("ls /sys/class/net", "--network").stdout


def test_fast_file_channels_are_read_only_and_file_channels_are_not(
    run: Run, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    channels = [f"--data={name}={tmp_path / 'rows.csv'}" for name in ("fast", "slow")]
    done = run(
        "cat input/data/fast/rows.csv; touch input/data/slow/x; touch input/data/fast/x",
        *channels,
        "--input-mode=fast=FastFile",
    )
    assert done.returncode == 1
    assert "a,b\n" in done.stdout
    assert "input/data/fast/x': Read-only file system" in done.stdout
    assert (output / "input/data/slow/x").exists()


def test_pipes_reach_the_container(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("one\ntwo\n")
    do = "cat input/data/train_0; until [ -p input/data/train_1 ]; do sleep 0.1; done; " \
        "head -1 input/data/train_1"  # fmt: skip
    done = run(do, f"--data=train={tmp_path / 'rows'}", "--input-mode=train=Pipe")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\none\n"), done.stderr


def test_root_can_be_read_only_but_for_tmp_and_opt_ml(run: Run) -> None:
    done = run("touch model/x /tmp/x; touch /x", "--read-only")
    assert done.stdout == "touch: cannot touch '/x': Read-only file system\n"


def test_hosts_share_a_network_and_the_files_of_a_sharded_channel(
    run: Run, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    for name in "abc":
        (tmp_path / "rows" / name).touch()
    done = run(
        "echo $(ls input/data/part); until getent hosts algo-1 algo-2 > /dev/null; do "
        "sleep 0.1; done; touch model/$host model/both; echo $host > checkpoints/$host; sleep 2",
        *("--instances=2", f"--data=part={tmp_path / 'rows'}", "--sharded=part"),
        *("--checkpoints", str(tmp_path / "kept")),
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[algo-1] a c", "[algo-2] b"]
    assert names(output / "model.tar.gz") == ["algo-1", "algo-2", "both"]
    assert "both: several hosts have written it" in done.stderr
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["algo-1", "algo-2"]
    resources = json.loads((output / "algo-2/input/config/resourceconfig.json").read_text())
    assert (resources["current_host"], resources["hosts"]) == ("algo-2", ["algo-1", "algo-2"])


def test_a_host_that_fails_stops_the_others_and_tells_why(run: Run, output: Path) -> None:
    do = "if [ $host = algo-2 ]; then sleep 2; echo no rows > output/failure; exit 9; fi; " \
        "while :; do sleep 0.1; done"  # fmt: skip
    done = run(do, "--instances=2")
    assert done.returncode == 9, done.stderr
    job = described(output)
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", "no rows\n")


def test_spot_interruptions_keep_checkpoints_and_nothing_else(
    run: Run, output: Path, tmp_path: Path
) -> None:
    done = run(
        "ls model; touch model/$(ls checkpoints | wc -l); n=$(ls checkpoints | wc -l); "
        "touch checkpoints/$n; [ $n = 2 ] || while :; do sleep 0.1; done",
        *("--checkpoints", str(tmp_path / "kept"), "--spot-interrupt=4x10"),
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert names(output / "model.tar.gz") == ["2"]
    assert described(output)["EnableManagedSpotTraining"] is True


def test_what_the_containers_root_wrote_belongs_to_the_user(run: Run, output: Path) -> None:
    done = run("mkdir -m 700 model/a output/data/a; touch model/a/b; chmod 600 model/a/b")
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_uid for path in output.rglob("*")} == {os.getuid()}
    assert names(output / "model.tar.gz") == ["a", "a/b"]
    assert run("true").returncode == 0  # could remove it


def test_ctrl_c_stops_the_job_and_the_model_is_packed(
    command: Callable[..., list[str]], docker: Docker, tiny: str, output: Path
) -> None:
    do = "echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(command(do), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 4
    assert names(output / "model.tar.gz") == ["state"]
    assert described(output)["SecondaryStatus"] == "Stopped"
    assert not docker("ps", "--all", "--quiet", "--filter", f"ancestor={tiny}").stdout


def test_an_image_that_is_missing_is_told(search_path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local_test", "train", "no-such-image"],
        env=os.environ | {"PATH": search_path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search("no image no-such-image on this machine; build or pull it", done.stderr)
