"""The rules of build_and_push.sh that need neither an engine nor AWS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "build_and_push.sh"

Run = Callable[..., subprocess.CompletedProcess[str]]


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs the script where every build fails and AWS is not installed."""
    for name in ("bash", "dirname", "awk"):
        (tmp_path / name).symlink_to(_program(name))
    (tmp_path / "docker").symlink_to(_program("false"))
    (tmp_path / "Dockerfile").touch()

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_program("bash"), SCRIPT, *arguments],
            env={"PATH": str(tmp_path), "DOCKERFILE": str(tmp_path / "Dockerfile")} | environment,
            capture_output=True,
            text=True,
        )

    return call


@pytest.fixture
def built_name(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs the script and gives the name of the first image it builds."""
    (tmp_path / "aws").symlink_to(_program("false"))

    def call(*arguments: str, **environment: str) -> str:
        done = run(*arguments, **environment)
        assert done.returncode == 1, done.stderr
        return done.stderr.split("the build of ")[1].split(" failed")[0]

    return call


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--traget", "serve"], ["--traget", "--target", "--accelerator", "--no-push"]),
        (["serve"], ["serve", "--target"]),
        (["--target", "server"], ["server", "train serve both", "IMAGE_TARGETS"]),
        (["--accelerator", "tpu"], ["tpu", "cpu gpu"]),
        (["--platform", "linux/amd64,linux/arm64"], ["linux/amd64 linux/arm64"]),
        (["--prefix", "Optml"], ["Optml", "lower-case"]),
        (["--prefix", "a__b"], ["a__b", "single"]),
        (["--prefix", "a" * 247], ["246"]),
        (["--tag", "-x"], ["-x", "128 letters"]),
        (["--tag", "a" * 129], ["128 letters"]),
        (["--tag", "a/b"], ["a/b", "128 letters"]),
        (["--account", "123"], ["123", "12 digits"]),
        (["--region", "Frankfurt"], ["Frankfurt", "eu-central-1"]),
        (["--registry", "https://example.com"], ["https://example.com", "HOST:PORT"]),
        (["--build-arg", "WORD"], ["WORD", "NAME=VALUE"]),
        (["--dockerfile", "no-such-file"], ["no-such-file", "does not exist"]),
        (["--tag"], ["--tag needs a value"]),
        (["--tag="], ["--tag needs a value"]),
    ],
)
def test_wrong_argument_is_named_with_what_is_allowed(
    run: Run, arguments: list[str], named: list[str]
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert [text for text in named if text not in done.stderr] == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IMAGE_TARGETS", "train server"),
        ("IMAGE_ACCELERATORS", "tpu"),
        ("IMAGE_PREFIX", "a//b"),
        ("IMAGE_TAG", "a b"),
        ("IMAGE_PLATFORM", "windows"),
        ("ACCOUNT", "me"),
        ("AWS_REGION", "home"),
        ("REGISTRY", "a/b"),
        ("BUILD_ARGS", "A=1 B"),
        ("DOCKERFILE", "no-such-file"),
        ("CA_BUNDLE", "no-such-file"),
        ("NO_PUSH", "yes"),
    ],
)
def test_wrong_environment_variable_is_named(run: Run, variable: str, value: str) -> None:
    done = run(**{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert variable in done.stderr


def test_help_goes_to_standard_output_and_names_every_option(run: Run) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    known = run("--nothing").stderr.split("allowed: ")[1].split("\n")[0].split(", ")
    assert [option for option in known if option not in done.stdout and option != "--help"] == []


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_registry_is_made_of_account_and_region(
    built_name: Callable[..., str], region: str, host: str
) -> None:
    arguments = ["--account", "123456789012", "--region", region, "--tag", "1"]
    assert built_name(*arguments) == f"{host}/optml-train-cpu:1"


@pytest.mark.parametrize(
    ("option", "variable", "value", "expected"),
    [
        ("--target", "IMAGE_TARGETS", "both", "r.example/optml-both-cpu:1"),
        ("--accelerator", "IMAGE_ACCELERATORS", "gpu", "r.example/optml-train-gpu:1"),
        ("--prefix", "IMAGE_PREFIX", "team/text", "r.example/team/text-train-cpu:1"),
        ("--tag", "IMAGE_TAG", "2", "r.example/optml-train-cpu:2"),
        ("--registry", "REGISTRY", "localhost:5000", "localhost:5000/optml-train-cpu:1"),
    ],
)
def test_variable_is_read_and_argument_wins_over_it(
    built_name: Callable[..., str], option: str, variable: str, value: str, expected: str
) -> None:
    environment = {"IMAGE_TAG": "1", "REGISTRY": "r.example", "AWS_REGION": "eu-central-1"}
    assert built_name(**environment | {variable: value}) == expected
    other = {"IMAGE_TARGETS": "serve", "IMAGE_ACCELERATORS": "cpu"}.get(variable, "other")
    assert built_name(option, value, **environment | {variable: other}) == expected


def test_region_argument_wins_over_both_variables(built_name: Callable[..., str]) -> None:
    environment = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}
    account = ("--account", "123456789012")
    assert ".eu-west-1." in built_name(*account, **environment)
    assert ".us-east-2." in built_name(*account, "--region=us-east-2", **environment)


def test_tag_is_latest_outside_git(built_name: Callable[..., str]) -> None:
    assert built_name("--no-push") == "optml-train-cpu:latest"


def test_missing_region_says_what_to_type(run: Run, tmp_path: Path) -> None:
    (tmp_path / "aws").symlink_to(_program("false"))
    done = run()
    assert done.returncode == 1
    assert "--region" in done.stderr
    assert "AWS_REGION" in done.stderr


def test_missing_aws_says_how_to_install_it(run: Run) -> None:
    done = run(REGISTRY="r.example", AWS_REGION="eu-central-1")
    assert done.returncode == 1
    assert '"aws" is missing' in done.stderr
    assert "pip install awscli" in done.stderr


def test_missing_docker_says_how_to_install_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "docker").unlink()
    done = run("--no-push")
    assert done.returncode == 1
    assert '"docker" is missing' in done.stderr
