"""A user's own code in the train image, under the strictest rules that the platform may set."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.container.running import STRICT, wait_for
from tests.train.scripts import pack, wheel

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]
Image = Callable[[str], str]
Start = Callable[..., str]

TELL = """\
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), os.getuid(), os.environ["SM_HPS"]]), flush=True)
"""
SAVE = """\
import os, signal, sys, time
def save(*_):
    open(os.environ["SM_MODEL_DIR"] + "/saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""
DEAF = """\
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


SUM = """\
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
print("sum", int(total), "of", dist.get_world_size(), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def lay_out(
    parent: Path, files: dict[str, str | bytes], program: str = "train.py", **more: object
) -> Path:
    """Return an /opt/ml tree with the code in a channel, writable as it is on the platform."""
    root = parent / "opt_ml"
    for name in ("input/config", "input/data/code", "model", "output"):
        (root / name).mkdir(parents=True)
    for name in ("model", "output"):
        (root / name).chmod(0o777)
    (root / "input/data/code/sourcedir.tar.gz").write_bytes(pack(files))
    given = {
        "sagemaker_program": program,
        "sagemaker_submit_directory": "/opt/ml/input/data/code/sourcedir.tar.gz",
        "epochs": 3,
        **more,
    }
    quoted = {name: json.dumps(value) for name, value in given.items()}
    (root / "input/config/hyperparameters.json").write_text(json.dumps(quoted))
    for path in (parent, *parent.parents[:2]):  # pytest makes them for their owner alone
        path.chmod(0o755)
    return root


def job(root: Path, image: str) -> tuple[str, ...]:
    return (*STRICT, f"--volume={root}:/opt/ml", image, "train")


def status(docker: Docker, container: str) -> int:
    return int(docker("inspect", "--format={{.State.ExitCode}}", container).stdout)


@pytest.fixture(scope="module", autouse=True)
def deaf_job(
    docker: Docker, image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Stop a script that ignores it; yield the tree, and the stop, which takes nearly 2 minutes."""
    root = lay_out(tmp_path_factory.mktemp("deaf"), {"train.py": DEAF})
    name = f"test-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, *job(root, image("train")))
    try:
        wait_for(lambda: "ready" in docker("logs", name).stdout)
        with subprocess.Popen(["docker", "stop", "--time=120", name]) as stop:
            yield root, stop
    finally:
        docker("rm", "--force", name)


@pytest.mark.parametrize("target", ["train", "both"])
def test_script_runs_on_a_read_only_root_as_nobody(
    docker: Docker, image: Image, tmp_path: Path, target: str
) -> None:
    root = lay_out(tmp_path, {"train.py": TELL})
    done = docker("run", "--rm", *job(root, image(target)))
    arguments, directory, user, given = json.loads(done.stdout.splitlines()[-1])
    assert arguments == ["train.py", "--epochs", "3"]
    assert directory.startswith("/tmp/")
    assert (user, json.loads(given)) == (65534, {"epochs": 3})


def test_shell_script_and_wheels_need_no_right_to_execute(
    docker: Docker, image: Image, tmp_path: Path
) -> None:
    name, content = wheel("own_helper", "VALUE = 7")
    root = lay_out(
        tmp_path,
        {
            "train.sh": "#!/bin/bash\n[[ $1 == --epochs ]] && echo ran $2\n",
            "train.py": "import own_helper, torch; print('found', own_helper.VALUE)",
            "requirements.txt": "own_helper\ntorch\n",
            f"wheels/{name}": content,
        },
    )
    run = job(root, image("train"))
    assert "\nfound 7\n" in docker("run", "--rm", *run).stdout
    shell = docker("run", "--rm", "--env=SAGEMAKER_PROGRAM=train.sh", *run)
    assert "\nran 3\n" in shell.stdout


def test_without_network_missing_packages_are_named_in_time(
    docker: Docker, image: Image, tmp_path: Path
) -> None:
    root = lay_out(tmp_path, {"train.py": "", "requirements.txt": "datasets\n"})
    started = time.monotonic()
    assert docker("run", "--rm", *job(root, image("train")), check=False).returncode == 1
    assert time.monotonic() - started < 60
    failure = (root / "output/failure").read_text()
    assert failure.startswith("requirements.txt asks for what the image does not have: datasets.")


@pytest.mark.parametrize("shell", [False, True])
def test_stop_reaches_the_script_which_saves(
    docker: Docker, image: Image, tmp_path: Path, start: Start, shell: bool
) -> None:
    files: dict[str, str | bytes] = {"train.py": SAVE, "train.sh": "python train.py; true"}
    root = lay_out(tmp_path, files, "train.sh" if shell else "train.py")
    container = start(*job(root, image("train")))
    wait_for(lambda: "ready" in docker("logs", container).stdout)
    docker("stop", "--time=20", container)  # docker kills after 20 s, with status 137
    assert (root / "model/saved").exists()
    assert status(docker, container) == (143 if shell else 0)
    assert (root / "output/failure").exists() == shell


def test_script_leaves_no_process_and_a_failure_that_names_its_line(
    docker: Docker, image: Image, tmp_path: Path
) -> None:
    code = "import subprocess\nsubprocess.Popen(['sleep', '600'])\nraise ValueError('no rows')\n"
    root = lay_out(tmp_path, {"train.py": code})
    started = time.monotonic()
    assert docker("run", "--rm", *job(root, image("train")), check=False).returncode == 1
    assert time.monotonic() - started < 60
    assert (root / "output/failure").read_text() == "ValueError: no rows\ntrain.py:3 in <module>"


def test_script_that_the_kernel_kills_is_told_to_have_had_no_memory(
    docker: Docker, image: Image, tmp_path: Path
) -> None:
    root = lay_out(tmp_path, {"train.py": "print(len(b'x' * 2**31))"})
    limit = ("--memory=400m", "--memory-swap=400m")
    assert docker("run", "--rm", *limit, *job(root, image("train")), check=False).returncode == 137
    assert (root / "output/failure").read_text().startswith("out of memory: ")


def test_script_on_two_hosts_joins_the_other_which_starts_later(
    docker: Docker, image: Image, tmp_path: Path, start: Start
) -> None:
    network = f"test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", network)
    containers = []
    try:
        for host in ("algo-1", "algo-2"):
            root = lay_out(
                tmp_path / host, {"train.py": SUM}, sagemaker_torch_distributed_enabled=True
            )
            resources = {
                "current_host": host,
                "hosts": ["algo-2", "algo-1"],
                "network_interface_name": "ethwe",
            }
            (root / "input/config/resourceconfig.json").write_text(json.dumps(resources))
            where = (f"--network={network}", f"--network-alias={host}", *STRICT[1:])
            volume = f"--volume={root}:/opt/ml"
            containers.append(start(*where, volume, image("train"), "train"))
            if host == "algo-1":
                wait_for(lambda: "waiting for host algo-2" in docker("logs", containers[0]).stdout)
        for container in containers:
            ended = docker("wait", container).stdout
            assert ended == "0\n", docker("logs", container)
            assert "\nsum 3 of 2\n" in docker("logs", container).stdout
    finally:
        for container in containers:
            docker("rm", "--force", container)
        docker("network", "rm", network)


def test_script_that_ignores_the_stop_is_killed_before_the_platform_kills_all(
    deaf_job: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    root, stop = deaf_job
    assert stop.wait(timeout=130) == 0
    assert (root / "output/failure").read_text() == (
        "stopped by SIGTERM: script train.py did not end within 110 s and was killed"
    )
