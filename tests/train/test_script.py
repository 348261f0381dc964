"""A user's own code under `python -m train`: what it finds, its signals, and its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.train.scripts import pack, script_job
from tests.train.trees import REPOSITORY, make_tree, start, train
from train import script
from train.cluster import Cluster
from train.job import Job
from train.processes import Supervisor

TELL = """\
import json, os, sys
with open(os.path.join(os.environ["SM_MODEL_DIR"], "told.json"), "w") as file:
    json.dump({"arguments": sys.argv, "environment": dict(os.environ), "cwd": os.getcwd()}, file)
"""
SAVE = """\
import os, signal, sys, time
def save(*_):
    time.sleep(0.5)
    open(os.environ["SM_MODEL_DIR"] + "/saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def told(root: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((root / "model/told.json").read_text())
    return values


def failure(root: Path) -> str:
    return (root / "output/failure").read_text(encoding="utf-8")


def stop(root: Path) -> tuple[int, str]:
    """Start a job, stop it once it says that it is ready, and wait for its end."""
    with start(root) as process:
        assert process.stdout
        log = ""
        for line in process.stdout:
            log += line
            if "ready" in line:
                break
        process.terminate()
        log += process.communicate(timeout=60)[0]
    return process.returncode, log


def users_processes() -> list[str]:
    marks = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [mark.decode(errors="replace") for mark in marks if b"left_behind" in mark]


# What a script finds.


def test_script_has_the_arguments_and_variables_of_awss_containers(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "lr": 3e-5,
        "name": "a b",
        "flag": True,
        "x": 1,
        "nothing": None,
        "map": {"b": 1},
    }
    root = script_job(tmp_path, {"train.py": TELL}, **more)
    code, log = train(root, TRAINING_JOB_NAME="job-1")
    assert code == 0, log
    found = told(root)
    assert found["cwd"] == str(root / "code")
    assert found["arguments"] == [
        "train.py", "--flag", "True", "--lr", "3e-05", "--map", "b=1", "--name", "a b",
        "--nothing", "", "-x", "1",
    ]  # fmt: skip
    variables = found["environment"]
    assert variables["SM_HP_NAME"] == "a b"
    assert json.loads(variables["SM_HPS"]) == more
    assert json.loads(variables["SM_HOSTS"]) == ["algo-1"]
    assert json.loads(variables["SM_CHANNELS"]) == ["code"]
    assert variables["SM_CHANNEL_CODE"] == str(root / "input/data/code")
    assert variables["SM_OUTPUT_DATA_DIR"] == str(root / "output/data")
    assert variables["SM_USER_ENTRY_POINT"] == "train.py"
    assert json.loads(variables["SM_TRAINING_ENV"])["job_name"] == "job-1"
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == str(root / "code")
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & variables.keys()
    assert not (root / "output/failure").exists()


def test_program_of_the_environment_comes_first(tmp_path: Path) -> None:
    root = script_job(tmp_path, {"train.py": "1 / 0", "other.py": TELL})
    assert train(root, SAGEMAKER_PROGRAM="other.py")[0] == 0
    assert told(root)["arguments"] == ["other.py"]


def test_job_needs_no_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text(TELL)
    code, log = train(tmp_path, SAGEMAKER_PROGRAM="train.py")
    assert code == 0, log


def test_users_modules_may_have_the_names_of_ours(tmp_path: Path) -> None:
    files = {"train.py": "import job, errors; " + TELL, "job.py": "", "errors.py": ""}
    code, log = train(script_job(tmp_path, files))
    assert code == 0, log


def test_script_in_a_folder_finds_modules_beside_it_and_at_the_top(tmp_path: Path) -> None:
    files = {"src/fit.py": "import near, top; " + TELL, "src/near.py": "", "top.py": ""}
    root = script_job(tmp_path, files, "src/fit.py")
    code, log = train(root)
    assert code == 0, log
    assert told(root)["arguments"] == ["src/fit.py"]


@pytest.mark.parametrize("first", ["#!/bin/bash\n", "#!/usr/bin/env bash\n", ""])
def test_shell_script_gets_its_arguments_and_needs_no_execute_bit(
    tmp_path: Path, first: str
) -> None:
    shell = first + f'\'{sys.executable}\' tell.py "$0" "$@"\n'
    root = script_job(tmp_path, {"go.sh": shell, "tell.py": TELL}, "go.sh", text="it's $HOME")
    code, log = train(root)
    assert code == 0, log
    assert told(root)["arguments"] == ["tell.py", "./go.sh", "--text", "it's $HOME"]


def test_directory_with_a_main_module_runs_as_a_package(tmp_path: Path) -> None:
    files = {
        "my_job/__init__.py": "",
        "my_job/__main__.py": "from . import work",
        "my_job/work.py": TELL,
    }
    root = script_job(tmp_path, files, "my_job", epochs=1)
    code, log = train(root)
    assert code == 0, log
    assert told(root)["arguments"][1:] == ["--epochs", "1"]


# Where the code comes from.


def test_directory_is_copied(tmp_path: Path) -> None:
    root = make_tree(
        tmp_path,
        {"code": {"train.py": TELL}},
        {
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": str(tmp_path / "input/data/code"),
        },
    )
    assert train(root)[0] == 0
    assert told(root)["cwd"] == str(root / "code")


@pytest.fixture
def s3() -> Iterator[str]:
    """Yield the URL of a server that holds s3://bucket/job/sourcedir.tar.gz."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    secrets = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=url, **secrets)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="job/sourcedir.tar.gz", Body=pack({"train.py": TELL}))
    yield url
    client.close()
    server.stop()


@pytest.mark.parametrize(("key", "works"), [("job/sourcedir.tar.gz", True), ("other", False)])
def test_archive_is_downloaded_from_s3(tmp_path: Path, s3: str, key: str, works: bool) -> None:
    given = {"sagemaker_program": "train.py", "sagemaker_submit_directory": f"s3://bucket/{key}"}
    root = make_tree(tmp_path, {}, given)
    code, log = train(
        root,
        S3_ENDPOINT_URL=s3,
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
    )
    assert (code == 0) == works, log
    if not works:
        assert failure(root).startswith("the code cannot be read from s3://bucket/other: ")
        assert "404" in failure(root)


def test_code_that_is_there_already_runs_and_the_log_says_so(tmp_path: Path) -> None:
    root = script_job(tmp_path, {"train.py": "1 / 0"})
    (root / "code").mkdir()
    (root / "code/train.py").write_text(TELL)
    code, log = train(root)
    assert code == 0
    assert f"WARNING the code in {root}/code runs: it is not empty, so " in log


def test_code_goes_to_tmp_where_the_tree_may_not_be_written(tmp_path: Path) -> None:
    root = script_job(tmp_path / "ml", {"train.py": TELL})
    for name in ("model", "output"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    for path in (root, *root.parents[:3]):
        path.chmod(0o555 if path == root else 0o755)
    as_user: list[str] = []
    if os.geteuid() == 0:
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("root needs setpriv to give up its rights")
        as_user = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*as_user, sys.executable, "-m", "train"],
        cwd=REPOSITORY,
        env={"SAGEMAKER_BASE_DIR": str(root), "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    root.chmod(0o755)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(root)["cwd"].startswith("/tmp/optml-")
    assert not Path(told(root)["cwd"]).exists()


@pytest.mark.parametrize(
    ("archive", "cause"),
    [
        (pack({"../train.py": ""}), "the member ../train.py leads outside of the archive"),
        (pack({"/train.py": ""}), "the member /train.py leads outside of the archive"),
        (pack({"train.py": ""}, data="../.."), "the member data leads outside of the archive"),
        (pack({"train.py": ""})[:60], "the code cannot be read from"),
        (pack({"other.py": ""}), "sagemaker_program=train.py: the code has no such file (found: o"),
        (pack({"x": ""}, **{"train.py": "./x"}), ""),
    ],
)
def test_archive_at_fault_is_refused(tmp_path: Path, archive: bytes, cause: str) -> None:
    root = script_job(tmp_path, {})
    (root / "input/data/code/sourcedir.tar.gz").write_bytes(archive)
    code, log = train(root)
    assert code == (1 if cause else 0), log
    assert not cause or cause in failure(root)
    assert not (root / "train.py").exists()


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"sagemaker_program": "../train.py"}, "contains '.' or '..' path segments"),
        ({"sagemaker_program": "-c"}, "contains a leading '-'"),
        ({"sagemaker_program": "a b.py"}, "contains the character(s) ' '"),
        ({"sagemaker_program": "train.py"}, "there is no code: "),
        (
            {"sagemaker_program": "train.py", "sagemaker_submit_directory": "/no/such.tar.gz"},
            "the code cannot be read from /no/such.tar.gz: ",
        ),
        (
            {"sagemaker_program": "train.py", "sagemaker_mpi_enabled": "true"},
            "sagemaker_mpi_enabled: this image has no such launcher",
        ),
    ],
)
def test_job_at_fault_is_told_why(tmp_path: Path, given: dict[str, str], cause: str) -> None:
    root = make_tree(tmp_path, {}, given)
    code, log = train(root)
    assert code == 1, log
    assert cause in failure(root)
    assert "Traceback" not in log


# How it ends.


def test_failure_has_the_exception_first(tmp_path: Path) -> None:
    root = script_job(
        tmp_path, {"train.py": "def fit():\n    raise ValueError('no rows')\nfit()\n"}
    )
    code, log = train(root)
    assert code == 1
    assert failure(root) == "ValueError: no rows\ntrain.py:2 in fit"
    assert "ERROR script train.py ended with exit status 1" in log
    assert "run_script" not in log


@pytest.mark.parametrize(
    ("files", "program", "exit_code", "cause"),
    [
        ({"go.sh": "exit 3"}, "go.sh", 3, "script go.sh ended with exit status 3"),
        ({"train.py": "raise SystemExit(5)"}, "train.py", 5, "script train.py ended with exit st"),
        ({"train.py": "import os; os.kill(os.getpid(), 9)"}, "train.py", 137, "out of memory: SIG"),
        ({"train.py": "import os; os.abort()"}, "train.py", 134, "script train.py crashed in nat"),
        ({"go.sh": "#!/no/such/shell"}, "go.sh", 1, "go.sh: its first line asks for /no/such/sh"),
    ],
)
def test_other_ends_are_decoded(
    tmp_path: Path, files: Mapping[str, str], program: str, exit_code: int, cause: str
) -> None:
    root = script_job(tmp_path, files, program)
    assert train(root)[0] == exit_code
    assert failure(root).startswith(cause)


def test_own_failure_file_is_kept(tmp_path: Path) -> None:
    code = "import os\nopen(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('mine')\n1 / 0\n"
    root = script_job(tmp_path, {"train.py": code})
    assert train(root)[0] == 1
    assert failure(root) == "mine"


def test_output_passes_unchanged(tmp_path: Path) -> None:
    code = "import sys\nsys.stdout.write('\\n\\na\\rb ' + 'c' * 100_000 + '\\n')"
    output = train(script_job(tmp_path, {"train.py": code}))[1]
    assert "\n\na\nb " + "c" * 100_000 + "\n" in output.replace("\r", "\n")


@pytest.mark.parametrize(
    ("files", "program"),
    [
        ({"train.py": SAVE}, "train.py"),
        ({"go.sh": f"'{sys.executable}' save.py", "save.py": SAVE}, "go.sh"),
        ({"go.sh": f"'{sys.executable}' save.py\ntrue", "save.py": SAVE}, "go.sh"),
    ],
)
def test_stop_reaches_the_script_and_it_saves(
    tmp_path: Path, files: Mapping[str, str], program: str
) -> None:
    root = script_job(tmp_path, files, program)
    code, log = stop(root)
    assert (root / "model/saved").exists(), log
    if program == "train.py":
        assert code == 0
        assert not (root / "output/failure").exists()


def test_script_that_the_stop_ends_is_told_of(tmp_path: Path) -> None:
    root = script_job(tmp_path, {"train.py": "import time; print('ready'); time.sleep(60)"})
    code, _ = stop(root)
    assert code == 143
    assert failure(root).startswith("stopped by SIGTERM: script train.py was ended by SIGTERM")


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    child = "[sys.executable, '-c', 'import time; left_behind = time.sleep(60)']"
    code = f"import subprocess, sys; subprocess.Popen({child}, start_new_session=True)"
    assert train(script_job(tmp_path, {"train.py": code}))[0] == 0
    assert not users_processes()


def test_script_dies_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    left_behind = "print('ready', flush=True); import time; time.sleep(60)"
    root = script_job(tmp_path, {"left_behind.py": left_behind}, "left_behind.py")
    with start(root) as process:
        assert process.stdout
        assert any("ready" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while users_processes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_secret_is_printed(tmp_path: Path) -> None:
    secrets: dict[str, Any] = {
        "hf_token": "S3CRET",
        "nested": {"api_key": "S3CRET"},
        "model": "hf_S3CRET",
    }
    code, log = train(script_job(tmp_path, {"train.py": "1 / 0"}, epochs=3, **secrets))
    assert code == 1
    assert "hyperparameters: epochs=3, hf_token=***, model=***, nested=***\n" in log
    assert "S3CRET" not in log


# Several processes.


def commands(root: Path, monkeypatch: pytest.MonkeyPatch, gpus: int = 1) -> list[dict[str, str]]:
    """Return the environments of the processes that a job would start on this host."""
    monkeypatch.setattr(script, "processes_per_host", lambda: gpus)
    monkeypatch.setattr(Cluster, "wait_for_peers", lambda self: None)
    for name in ("SAGEMAKER_BASE_DIR", "CURRENT_HOST", "SAGEMAKER_REGION", "SAGEMAKER_JOB_NAME"):
        monkeypatch.setenv(name, "restored afterwards")
    job, supervisor = Job(root), Supervisor()
    prepared = script._prepare("train.py", job, root, supervisor)
    return [dict(command.environment) for command in prepared]


def with_hosts(root: Path, count: int) -> Path:
    resources = {
        "current_host": "algo-2",
        "hosts": [f"algo-{number}" for number in range(count, 0, -1)],
        "network_interface_name": "ethwe",
    }
    (root / "input/config/resourceconfig.json").write_text(json.dumps(resources))
    return root


def test_distributed_script_runs_once_for_each_gpu_with_the_variables_of_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = script_job(tmp_path, {"train.py": ""}, sagemaker_torch_distributed_enabled=True)
    found = commands(with_hosts(root, 2), monkeypatch, gpus=2)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [tuple(one[name] for name in names) for one in found] == [
        ("2", "0", "4", "2", "algo-1", "7777"),
        ("3", "1", "4", "2", "algo-1", "7777"),
    ]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"1"}


def test_distributed_script_alone_is_a_group_of_one(tmp_path: Path) -> None:
    join = "from torch.distributed import *\ninit_process_group('gloo')\n"
    files = {"train.py": join + "print('size', get_world_size())"}
    root = script_job(tmp_path, files, sagemaker_torch_distributed_enabled=True)
    code, log = train(root)
    assert code == 0, log
    assert "\nsize 1\n" in log


def test_other_scripts_run_once_a_host_and_know_where_to_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = with_hosts(script_job(tmp_path, {"train.py": ""}), 3)
    (found,) = commands(root, monkeypatch, gpus=8)
    assert json.loads(found["SM_HOSTS"]) == ["algo-1", "algo-2", "algo-3"]
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("algo-1", "7777")
    assert not {"RANK", "WORLD_SIZE"} & found.keys()
