"""Rules that an image keeps or breaks before it runs."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.subject import Subject
from local_test.programs import ROOT, EngineError

GB = 1_000_000_000
SERVERLESS_BYTES = 10 * GB
SHELLS = ("sh", "bash", "dash", "ash", "zsh")
INITS = ("tini", "tini-static", "docker-init")
ROOT_USERS = ("", "root", "0", "root:root", "0:0", "0:root", "root:0")
COMPILERS = ("gcc", "cc", "g++", "clang", "nvcc", "javac")
DRIVER_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
)
DRIVERS = ("libcuda.so.1", "libnvidia-ml.so.1")


@rule(
    Needs.IMAGE,
    advice="build with --platform linux/amd64; arm64 is for Graviton instances alone",
    source="aws/amazon-sagemaker-feedback#180; ECR: pushing a multi-architecture image",
)
def image_platform(subject: Subject) -> str:
    """The image is for Linux on amd64."""
    details = subject.image.details
    seen = f"{details.get('Os')}/{details.get('Architecture')}"
    if seen != "linux/amd64":
        raise Broken(seen)
    return seen


@rule(
    Needs.IMAGE,
    advice="build with --provenance=false --sbom=false and without OCI media types, and push "
    "again; build_and_push.sh does so",
    source="aws/amazon-sagemaker-feedback#180; mlflow/mlflow#13834; moby/buildkit#5480",
)
def image_manifest(subject: Subject) -> str:
    """In its registry the image has a Docker manifest (schema 2), not one of OCI nor an index."""
    name = subject.options.image
    host, slash, _ = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise NotApplicable(
            "only a registry gives an image a manifest, and its name has none; push it, and name "
            "it as HOST/REPOSITORY:TAG"
        )
    command = [str(ROOT / "build_and_push.sh"), "--check", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode:
        return "application/vnd.docker.distribution.manifest.v2+json"
    told = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    if "manifest media type" in told:
        raise Broken(told)
    raise NotApplicable(told)


@rule(
    Needs.IMAGE,
    advice='use the exec form, ENTRYPOINT ["python3", "/opt/program/start.py"], or none and '
    "programs named train and serve on PATH",
    source="your-algorithms-training-algo-dockerfile and your-algorithms-inference-code: "
    "run your image",
)
def image_entrypoint(subject: Subject) -> str:
    """ENTRYPOINT is in exec form, without a shell that keeps signals to itself, and not tini."""
    entrypoint = subject.image.entrypoint
    if not entrypoint:
        return "none"
    first = PurePosixPath(entrypoint[0]).name
    if (first in SHELLS and "-c" in entrypoint) or first in INITS:
        raise Broken(f"ENTRYPOINT {entrypoint}")
    return f"ENTRYPOINT {entrypoint}"


@rule(
    Needs.IMAGE,
    advice="leave out USER: the platform expects root, and its serverless sandbox takes its own",
    source="your-algorithms-inference-code: run your image",
)
def image_user(subject: Subject) -> str:
    """The image leaves the user to the platform, which expects root."""
    user = subject.image.config.get("User") or ""
    if user not in ROOT_USERS:
        raise Broken(f"USER {user}")
    return f"USER {user}" if user else "no USER"


@rule(
    Needs.IMAGE,
    advice="put code and data elsewhere, such as /opt/program: mounts hide what is there",
    source="your-algorithms-training-algo-dockerfile: reserved directories",
)
def image_opt_ml(subject: Subject) -> str:
    """Nothing lies under /opt/ml, which is the platform's."""
    with subject.image.copy("/opt/ml") as copied:
        found = [path for path in copied.rglob("*") if not path.is_dir()] if copied else []
        if copied and found:
            raise Broken(f"{len(found)} files, such as /opt/ml/{found[0].relative_to(copied)}")
    return "nothing"


@rule(
    Needs.IMAGE,
    advice="leave training's packages, compilers and caches out of the serving image",
    source="serverless-endpoints: container limits",
)
def image_size(subject: Subject) -> str:
    """A serving image has at most 10 GB, which serverless endpoints allow."""
    if "serve" not in subject.abilities:
        raise NotApplicable("the image does not serve")
    size = subject.image.details["Size"]
    if size > SERVERLESS_BYTES:
        raise Broken(f"{size / GB:.2f} GB")
    return f"{size / GB:.2f} GB"


@rule(
    Needs.IMAGE,
    advice="start from an image without the driver: the platform mounts the one of its hosts",
    source="your-algorithms-inference-code: run your image",
)
def image_driver(subject: Subject) -> str:
    """The image holds no NVIDIA driver."""
    paths = [f"{directory}/{name}" for directory in DRIVER_DIRECTORIES for name in DRIVERS]
    found = [path for path in paths if subject.image.holds(path)]
    if found:
        raise Broken(", ".join(found))
    return "none"


@rule(
    Needs.IMAGE,
    advice="compile in a stage of its own, and copy what was built; a compiler is large, and at "
    "run time there is no network to install what it would build",
    source="aws/sagemaker-training-toolkit#94; mkt-algo-model-internet-free",
)
def image_compiler(subject: Subject) -> str:
    """The image holds no compiler."""
    found = [path for name in COMPILERS if (path := subject.image.program(name))]
    if found:
        raise Broken(", ".join(found))
    return "none"


@rule(
    Needs.IMAGE,
    advice='add CMD ["train"]: local mode of SDK 3 starts the image without an argument',
    source="SageMaker Python SDK 3: sagemaker.train.local.local_container",
)
def image_command(subject: Subject) -> str:
    """Without an argument a training image trains."""
    if "train" not in subject.abilities:
        raise NotApplicable("the image does not train")
    command = [*subject.image.entrypoint, *subject.image.command]
    if not command or PurePosixPath(command[-1]).name != "train":
        raise Broken(f"it runs {command or 'nothing'}")
    return f"it runs {command}"


@rule(
    Needs.IMAGE,
    advice="install bash, python3 and pip, also where the programs themselves do without",
    source="SageMaker Python SDK 3: sagemaker.train.templates, sm_train.sh",
)
def image_sdk3_tools(subject: Subject) -> str:
    """A training image has bash, Python and pip on PATH, which SDK 3's ModelTrainer starts."""
    if "train" not in subject.abilities:
        raise NotApplicable("the image does not train")
    script = (
        "command -v bash && { command -v python3 || command -v python; } && "
        "{ command -v pip3 || command -v pip; }"
    )
    command = ("run", "--rm", "--network=none", "--entrypoint=/bin/bash")
    try:
        told = subject.engine.run(*command, subject.options.image, "-c", script)
    except EngineError as error:
        raise Broken(f"not all of bash, python3 and pip3 are there: {error}") from error
    return ", ".join(told.split())
