"""build_and_push.sh against a real engine, a real registry and moto's ECR."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[2] / "build_and_push.sh"
SCHEMA_2 = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

DOCKERFILE = """\
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE} AS base
ARG ACCELERATOR
ARG WORD=none
RUN --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then cp /run/secrets/ca /ca; else echo none > /ca; fi
RUN echo "$ACCELERATOR $WORD $(cat /ca)" > /made
CMD ["cat", "/made"]
FROM base AS train
FROM base AS serve
FROM base AS both
RUN echo "this stage cannot be built" >&2; exit 1
"""


@pytest.fixture(scope="module")
def aws_environment(
    program: Callable[[str], str], search_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Yield an environment whose AWS is moto's server, and which knows nothing of this user's."""
    port, directory = _free_port(), tmp_path_factory.mktemp("moto")
    address = f"http://127.0.0.1:{port}"
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    kept = {key: os.environ[key] for key in ("HOME", "DOCKER_HOST") if key in os.environ}
    with _running(command, f"{address}/moto-api/", directory / "log"):
        yield kept | {
            "PATH": search_path,
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "1",
        }


@dataclass(frozen=True)
class Registry:
    host: str
    password: str

    def request(
        self, path: str, accept: str = "*/*", put: tuple[str, bytes] | None = None
    ) -> tuple[str, bytes]:
        """Return media type and body of a GET, or of a PUT of (media type, body)."""
        token = base64.b64encode(f"AWS:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Accept": accept}
        if put:
            headers["Content-Type"] = put[0]
        request = urllib.request.Request(
            f"http://{self.host}/v2/{path}",
            data=put[1] if put else None,
            headers=headers,
            method="PUT" if put else "GET",
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.headers.get("Content-Type", ""), response.read()

    def repositories(self) -> list[str]:
        names: list[str] = json.loads(self.request("_catalog")[1])["repositories"]
        return names


@pytest.fixture(scope="module")
def registry(
    program: Callable[[str], str],
    aws_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Registry]:
    """Yield a registry that, as ECR does, wants the user AWS and the password AWS gives out."""
    directory = tmp_path_factory.mktemp("registry")
    password = _aws(aws_environment, "ecr", "get-login-password")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (directory / "htpasswd").write_text(f"AWS:{hashed}\n")
    host = f"127.0.0.1:{_free_port()}"
    configuration = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": host},
        "auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}},
    }
    # JSON is YAML, which is what the registry reads.
    (directory / "config.yml").write_text(json.dumps(configuration))
    command = [program("docker-registry"), "serve", str(directory / "config.yml")]
    with _running(command, f"http://{host}/v2/", directory / "log"):
        yield Registry(host, password)


@dataclass(frozen=True)
class Workbench:
    """One test's own image names, Dockerfile and Docker login."""

    docker: Docker
    registry: Registry
    prefix: str
    directory: Path
    environment: dict[str, str]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *arguments],
            env=self.environment | environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def push(self, *arguments: str, **environment: str) -> list[str]:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def pull_and_run(self, uri: str) -> str:
        self.docker("image", "rm", "--force", uri)
        self.docker("--config", str(self.directory / "docker"), "pull", uri)
        return self.docker("run", "--rm", uri).stdout.strip()

    def ecr_repositories(self) -> list[str]:
        query = "repositories[].repositoryName"
        return _aws(self.environment, "ecr", "describe-repositories", "--query", query).split()


@pytest.fixture
def bench(
    docker: Docker, registry: Registry, aws_environment: dict[str, str], tmp_path: Path
) -> Iterator[Workbench]:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "docker").mkdir()
    plugins = Path.home() / ".docker" / "cli-plugins"
    if plugins.is_dir():
        (tmp_path / "docker" / "cli-plugins").symlink_to(plugins)
    environment = aws_environment | {
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "DOCKERFILE": str(tmp_path / "Dockerfile"),
        "REGISTRY": registry.host,
        "IMAGE_PREFIX": prefix,
        "IMAGE_TAG": "1",
    }
    yield Workbench(docker, registry, prefix, tmp_path, environment)
    ours = [f"--filter=reference={name}" for name in (f"{prefix}-*", f"*/{prefix}-*")]
    images = docker("images", "--quiet", *ours).stdout.split()
    if images:
        docker("image", "rm", "--force", *images)


def test_repository_is_created_when_missing_and_reused_when_present(bench: Workbench) -> None:
    bench.push("--target", "serve")
    assert f"{bench.prefix}-serve-cpu" in bench.ecr_repositories()
    bench.push("--target", "serve", "--tag", "2")
    assert bench.ecr_repositories().count(f"{bench.prefix}-serve-cpu") == 1


def test_every_target_and_accelerator_is_pushed_under_its_own_name(bench: Workbench) -> None:
    uris = bench.push("--accelerator", "cpu", "--accelerator", "gpu")
    assert uris == [
        f"{bench.registry.host}/{bench.prefix}-{target}-{accelerator}:1"
        for target in ("train", "serve")
        for accelerator in ("cpu", "gpu")
    ]
    assert {uri.split("/")[1].split(":")[0] for uri in uris} <= set(bench.registry.repositories())


def test_pushed_manifest_is_schema_2_and_amd64(bench: Workbench) -> None:
    bench.push("--target", "train")
    name = f"{bench.prefix}-train-cpu"
    media_type, body = bench.registry.request(f"{name}/manifests/1", accept=SCHEMA_2)
    manifest = json.loads(body)
    assert media_type == manifest["mediaType"] == SCHEMA_2
    config = json.loads(bench.registry.request(f"{name}/blobs/{manifest['config']['digest']}")[1])
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_printed_uri_can_be_pulled_and_run(bench: Workbench) -> None:
    (uri,) = bench.push("--target", "serve", "--accelerator", "gpu", "--build-arg", "WORD=hello")
    assert bench.pull_and_run(uri) == "gpu hello none"


def test_explicit_argument_wins_over_environment(bench: Workbench) -> None:
    (uri,) = bench.push(
        *("--target", "serve", "--accelerator", "gpu", "--tag", "argument"),
        *("--build-arg", "WORD=argument"),
        IMAGE_TARGETS="train",
        IMAGE_ACCELERATORS="cpu",
        IMAGE_TAG="environment",
        BUILD_ARGS="WORD=environment",
    )
    assert uri == f"{bench.registry.host}/{bench.prefix}-serve-gpu:argument"
    assert bench.pull_and_run(uri) == "gpu argument none"


def test_base_image_replaces_the_dockerfiles_own(bench: Workbench) -> None:
    done = bench.run("--target", "serve", "--base-image", "127.0.0.1:9/no-such-base")
    assert done.returncode == 1
    assert "127.0.0.1:9/no-such-base" in done.stderr


def test_ca_bundle_is_a_secret_of_the_build(bench: Workbench) -> None:
    (bench.directory / "ca.crt").write_text("certificates\n")
    # A secret is no part of the build cache's key, so a word of its own forces the build.
    (uri,) = bench.push(
        *("--target", "serve", "--build-arg", f"WORD={bench.prefix}"),
        CA_BUNDLE=str(bench.directory / "ca.crt"),
    )
    assert bench.pull_and_run(uri) == f"cpu {bench.prefix} certificates"


def test_failed_build_pushes_nothing(bench: Workbench) -> None:
    done = bench.run("--target", "train", "--target", "both")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{bench.prefix}-both-cpu:1 failed; nothing was pushed" in done.stderr
    assert not [name for name in bench.registry.repositories() if bench.prefix in name]


def test_no_push_builds_without_aws(bench: Workbench) -> None:
    (uri,) = bench.push("--target", "serve", "--no-push", REGISTRY="", AWS_ENDPOINT_URL="")
    assert uri == f"{bench.prefix}-serve-cpu:1"
    assert bench.docker("run", "--rm", uri).stdout.strip() == "cpu none none"


def test_unreachable_ecr_is_not_taken_for_a_missing_repository(bench: Workbench) -> None:
    done = bench.run("--target", "serve", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert f"cannot look up the ECR repository {bench.prefix}-serve-cpu" in done.stderr
    assert "ecr:DescribeRepositories" in done.stderr
    assert not [name for name in bench.registry.repositories() if bench.prefix in name]


@pytest.fixture
def buildx(docker: Docker) -> None:
    """Skip where only `docker manifest inspect` is left, which hides OCI media types."""
    if docker("buildx", "version", check=False).returncode:
        pytest.skip("docker buildx is not installed")


@pytest.mark.usefixtures("buildx")
def test_oci_index_in_the_registry_is_refused(bench: Workbench) -> None:
    (uri,) = bench.push("--target", "serve")
    name = f"{bench.prefix}-serve-cpu"
    manifest = bench.registry.request(f"{name}/manifests/1", accept=SCHEMA_2)[1]
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [_descriptor(SCHEMA_2, manifest)],
    }
    bench.registry.request(f"{name}/manifests/index", put=(OCI_INDEX, json.dumps(index).encode()))

    assert bench.push("--check", uri) == [uri]
    refused = bench.run("--check", uri.replace(":1", ":index"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"has the manifest media type {OCI_INDEX}. SageMaker refuses it" in refused.stderr
    assert SCHEMA_2 in refused.stderr


@pytest.mark.usefixtures("buildx")
def test_oci_manifest_in_the_registry_is_refused(bench: Workbench) -> None:
    (uri,) = bench.push("--target", "serve")
    name = f"{bench.prefix}-serve-cpu"
    manifest = json.loads(bench.registry.request(f"{name}/manifests/1", accept=SCHEMA_2)[1])
    manifest["mediaType"] = OCI_MANIFEST
    manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    body = json.dumps(manifest).encode()
    bench.registry.request(f"{name}/manifests/oci", put=(OCI_MANIFEST, body))

    refused = bench.run("--check", uri.replace(":1", ":oci"))
    assert refused.returncode == 1
    assert OCI_MANIFEST in refused.stderr


def test_check_of_an_image_that_is_not_there_says_how_to_log_in(bench: Workbench) -> None:
    done = bench.run("--check", f"{bench.registry.host}/{bench.prefix}:none")
    assert done.returncode == 1
    assert "cannot read the manifest" in done.stderr
    assert "docker login --username AWS --password-stdin" in done.stderr


def _descriptor(media_type: str, body: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    platform = {"os": "linux", "architecture": "amd64"}
    return {"mediaType": media_type, "digest": digest, "size": len(body), "platform": platform}


def _aws(environment: dict[str, str], *arguments: str) -> str:
    command = ["aws", *arguments, "--output", "text"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends; enter the block when the URL answers, with any status."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} does not answer at {url}:\n{log.read_text()}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
