"""Script mode: the user's own training code, run as in AWS's containers.

What a script finds there (arguments, `SM_*` variables, where the code comes from) is what the
library `sagemaker-training` says; the process itself is ours, because the library's takes no
signals, cuts the output into pieces and prints every hyperparameter.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from train import run_script
from train.cluster import Cluster, processes_per_host
from train.errors import UserError
from train.job import Job
from train.processes import GRACE, Command, Supervisor, explain
from train.redaction import redact

__all__ = ["program", "run"]

log = logging.getLogger(__name__)

_UNSUPPORTED = (
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_mpi_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
)
"""What other launchers than torch's are asked for with."""


class _Given(dict[str, Any]):
    """A dictionary that the library takes as given even when it is empty."""

    def __bool__(self) -> bool:
        return True


def program(job: Job) -> str | None:
    """Return the user's entry point; None where the job is one of our own recipes."""
    name = os.environ.get("SAGEMAKER_PROGRAM") or job.hyperparameters().get("sagemaker_program")
    return str(_decode(name)) if name else None


def run(name: str, job: Job, supervisor: Supervisor) -> tuple[int, str]:
    """Fetch the user's code, install what it needs, and run its entry point to the end.

    Returns:
        The exit code, and the reason where it is not 0.

    Raises:
        UserError: the code, or what the job says of it, cannot be used.
        Stopped: a stop signal came before the code ran.
    """
    with tempfile.TemporaryDirectory(prefix="optml-", ignore_cleanup_errors=True) as scratch:
        with supervisor.preparing():
            commands = _prepare(name, job, Path(scratch), supervisor)
        code = supervisor.run(commands)
    if not code:
        return 0, ""
    if supervisor.stopped_by and supervisor.time_is_up:
        reason = f"script {name} did not end within {GRACE:.0f} s and was killed"
    else:
        out_of_memory = supervisor.was_killed_for_memory()
        reason = explain(code, out_of_memory, f"script {name}", "its batch size")
    if supervisor.stopped_by:
        reason = f"stopped by {supervisor.stopped_by}: {reason}"
    log.error("%s", reason)
    return code, reason


def _prepare(name: str, job: Job, scratch: Path, supervisor: Supervisor) -> list[Command]:
    from train import requirements

    _import_library(job)
    _check_name(name)
    given = {key: _decode(value) for key, value in job.hyperparameters().items()}
    distributed = _is_distributed(given)
    cluster = Cluster.of(job.resources(), processes_per_host() if distributed else 1)
    cluster.wait_for_peers()
    described = _describe_job(job, given, cluster)
    source = _fetch(described.module_dir, job, scratch)
    package = (source / "setup.py").is_file() and not name.endswith(".sh")
    arguments = [*_entry_point(name, package, source, job), *described.to_cmd_args()]
    packages = None
    if package or name.endswith(".py"):
        packages = requirements.install(source, package, scratch, supervisor)
    environment = {
        "PYTHONUNBUFFERED": "1",
        **({"OMP_NUM_THREADS": "1"} if cluster.processes_per_host > 1 else {}),  # as torchrun
        **os.environ,
        **described.to_env_vars(),
        "PYTHONPATH": os.pathsep.join(
            str(path) for path in (source, packages, os.environ.get("PYTHONPATH")) if path
        ),
    }
    with suppress(OSError):  # on the platform they are there
        job.model.mkdir(parents=True, exist_ok=True)
        job.output_data.mkdir(parents=True, exist_ok=True)
    shown = [f"{key}={redact(key, value)}" for key, value in described.hyperparameters.items()]
    log.info("hyperparameters: %s", ", ".join(sorted(shown)) or "none")
    log.info("running %s in %s, processes: %d", name, source, cluster.processes_per_host)
    return [
        Command(
            arguments,
            environment | (cluster.torchrun(rank) if distributed else _meeting_point(cluster)),
            source,
        )
        for rank in range(cluster.processes_per_host)
    ]


def _is_distributed(given: Mapping[str, Any]) -> bool:
    """Return whether the script is to run once for each GPU, as `torchrun` would start it."""
    for flag in _UNSUPPORTED:
        if _is_true(given.get(flag)):
            raise UserError(
                f"{flag}: this image has no such launcher; with the SageMaker SDK type "
                'distribution={"torch_distributed": {"enabled": True}}, which starts the script '
                "once for each GPU"
            )
    return _is_true(given.get("sagemaker_torch_distributed_enabled"))


def _import_library(job: Job) -> None:
    """Import `sagemaker_training`, which looks at the machine on import, quietly."""
    from unittest import mock

    logging.getLogger("sagemaker-training-toolkit").setLevel(logging.ERROR)  # it prints values
    # Without this variable it makes a tree in the home directory where there is no /opt/ml.
    os.environ["SAGEMAKER_BASE_DIR"] = str(job.root.absolute())
    # It makes the directory code, and fails where it may not.
    with mock.patch("os.makedirs"):
        import sagemaker_training.environment  # noqa: F401


def _describe_job(job: Job, given: Mapping[str, Any], cluster: Cluster) -> Any:
    """Return the library's `Environment`, without what the library needs and a job may lack."""
    from sagemaker_training.environment import Environment

    hosts = {"current_host": cluster.current_host, "hosts": list(cluster.hosts)}
    inputs = job.inputs() or {name: {} for name in job.channel_names()}
    return Environment(_Given(job.resources() | hosts), _Given(inputs), _Given(given))


def _check_name(name: str) -> None:
    from sagemaker_training import errors, process

    try:
        process.validate_entry_point(name)
    except errors.ClientError as error:
        raise UserError(str(error)) from error


def _fetch(uri: str, job: Job, scratch: Path) -> Path:
    """Return the directory of the user's code, after unpacking it where it is not there yet."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from sagemaker_training import files

    code = job.root.absolute() / "code"
    if code.is_dir() and any(code.iterdir()):
        if Path(uri) != code:
            log.warning("the code in %s runs: it is not empty, so %s is not unpacked", code, uri)
        return code
    if Path(uri) == code:
        raise UserError(
            f"there is no code: {code} is empty, and the hyperparameter sagemaker_submit_directory "
            "is not set; set it to an S3 URI or a path of a sourcedir.tar.gz"
        )
    target = code if _is_writable(code) else scratch / "code"
    try:
        if Path(uri).is_dir():
            shutil.copytree(uri, target, dirs_exist_ok=True)
        else:
            archive = Path(uri)
            if uri.startswith("s3://"):
                archive = scratch / "sourcedir.tar.gz"
                files.s3_download(uri, str(archive))
            _check_members(archive, uri)
            files.download_and_extract(str(archive), str(target))
    except (
        OSError, EOFError, zlib.error, tarfile.TarError, Boto3Error, BotoCoreError, ClientError,
    ) as error:  # fmt: skip
        raise UserError(
            f"the code cannot be read from {uri}: {error}. It must be a .tar.gz or a directory; "
            "where the job has no network, pass it as a channel (SDK 2 does so by itself with "
            "enable_network_isolation=True)"
        ) from error
    log.info("the code of %s is in %s", uri, target)
    return target


def _is_writable(code: Path) -> bool:
    try:
        code.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(code, os.W_OK)


def _check_members(archive: Path, uri: str) -> None:
    """Refuse an archive that would write outside of its directory.

    The library would only give such a member another name.
    """
    if not tarfile.is_tarfile(archive):
        return
    with tarfile.open(archive) as members:
        for member in members:
            path = PurePosixPath(member.name)
            paths = [path]
            if member.issym():
                paths.append(PurePosixPath(os.path.normpath(path.parent / member.linkname)))
            if any(path.is_absolute() or ".." in path.parts for path in paths):
                raise UserError(
                    f"{uri}: the member {member.name} leads outside of the archive; pack the "
                    "directory from within: tar -C DIRECTORY -czf sourcedir.tar.gz ."
                )


def _entry_point(name: str, package: bool, source: Path, job: Job) -> list[str]:
    """Return the command that runs the entry point, without the script's arguments."""
    python = [sys.executable, run_script.__file__, str(job.failure.absolute())]
    path = source / name
    if package or path.is_dir():
        return [*python, "-m", name.removesuffix(".py").replace("/", ".")]
    if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
        found = ", ".join(sorted(entry.name for entry in source.iterdir())[:8])
        raise UserError(f"sagemaker_program={name}: the code has no such file (found: {found})")
    if name.endswith(".py"):
        return [*python, name]
    return [*_interpreter(path), f"./{name}"]


def _interpreter(path: Path) -> list[str]:
    """Return what runs a program; nothing where it is a binary.

    Asking the kernel would take a file system that allows it, which /tmp often is not.
    """
    with path.open("rb") as file:
        first = file.readline(256)
    if first.startswith(b"\x7fELF"):
        if not os.access(path, os.X_OK):
            path.chmod(0o755)
        return []
    interpreter = first[2:].decode(errors="replace").split(maxsplit=1)
    if not first.startswith(b"#!") or not interpreter:
        return ["/bin/sh"]
    if not shutil.which(interpreter[0]):
        raise UserError(
            f"{path.name}: its first line asks for {shlex.quote(interpreter[0])}, which the image "
            "does not have"
        )
    return [word.strip() for word in interpreter]


def _meeting_point(cluster: Cluster) -> dict[str, str]:
    """Return what AWS's PyTorch containers tell a script that joins the others by itself."""
    if len(cluster.hosts) == 1:
        return {}
    own = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return {name: value for name, value in cluster.torchrun(0).items() if name not in own}


def _decode(value: Any) -> Any:
    """Return a hyperparameter as the library reads it: as JSON, or else as it is."""
    with suppress(ValueError, TypeError):
        return json.loads(value)
    return value


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"
