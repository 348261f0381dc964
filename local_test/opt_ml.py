"""The /opt/ml tree that Amazon SageMaker builds before it starts a training container."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from local_test.arguments import ArgumentError

__all__ = [
    "INPUT_MODES",
    "INSTANCE_TYPE",
    "TreeError",
    "build",
    "check",
    "clear",
    "files",
    "quote_as_sdk_v2",
    "share",
]

MARKER = ".made_by_local_test"

# Limits of the CreateTrainingJob API.
CHANNEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_CHANNELS = 20
MAX_HYPERPARAMETERS = 100
MAX_KEY = 256
MAX_VALUE = 2500

INPUT_MODES = {"File": "File", "FastFile": "File", "Pipe": "Pipe"}
"""By name: the TrainingInputMode that the container reads."""

GROUP = "homogeneousCluster"
INSTANCE_TYPE = "ml.m5.xlarge"


class TreeError(ArgumentError):
    """The caller asked for a tree that SageMaker would not build, or that cannot be built here."""


def build(
    directory: Path,
    channels: Mapping[str, Path],
    content_types: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    *,
    input_modes: Mapping[str, str] | None = None,
    sharded: Collection[str] = (),
    hosts: Sequence[str] = ("algo-1",),
    host: str = "algo-1",
    keep_checkpoints: bool = False,
) -> None:
    """Create the tree of one host; nothing is touched unless all arguments are valid.

    In a directory that an earlier call built, everything of the earlier job is removed first. The
    data of a channel in Pipe mode is left out.

    Args:
        channels: a file or a directory for each name.
        input_modes: of the channels that are not in File mode, a key of INPUT_MODES.
        sharded: channels of which each host gets a part (ShardedByS3Key).

    Raises:
        TreeError: an argument breaks a rule, or the directory holds something else.
    """
    modes = input_modes or {}
    check(directory, channels, content_types, hyperparameters, modes, sharded)
    clear(directory, keep_checkpoints)
    for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name, source in channels.items():
        if modes.get(name) != "Pipe":
            _copy(source, directory / "input/data" / name, share(name, sharded, hosts, host))
    config = directory / "input" / "config"
    inputs = _input_data_config(channels, content_types, modes, sharded)
    _write(config / "hyperparameters.json", hyperparameters)
    _write(config / "inputdataconfig.json", inputs)
    _write(config / "resourceconfig.json", _resource_config(hosts, host))
    _set_modes(directory)


def files(source: Path, part: slice = slice(None)) -> list[Path]:
    """Return the files of a channel in the order of their keys, or every n-th of them."""
    if not source.is_dir():
        found = [source]
    else:
        found = [Path(parent) / name for parent, _, names in os.walk(source, followlinks=True)
                 for name in names]  # fmt: skip
    return sorted(found, key=lambda path: path.relative_to(source).as_posix())[part]


def share(name: str, sharded: Collection[str], hosts: Sequence[str], host: str) -> slice:
    """Return which files of a channel a host gets."""
    return slice(hosts.index(host), None, len(hosts)) if name in sharded else slice(None)


def quote_as_sdk_v2(value: str) -> str:
    """Return the JSON text that version 2 of the SageMaker Python SDK sends for a value.

    It JSON-encodes what the caller gave it, so strings arrive inside quotes and all else as it is.
    """
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value)
    return value


def check(
    directory: Path,
    channels: Mapping[str, Path],
    content_types: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    input_modes: Mapping[str, str],
    sharded: Collection[str],
) -> None:
    """Raise a TreeError where `build` would."""
    _check_hyperparameters(hyperparameters)
    _check_channels(channels, directory.resolve())
    options = {"content type": content_types, "input mode": input_modes, "sharding": sharded}
    for what, names in options.items():
        for name in names:
            if name not in channels:
                known = ", ".join(channels) or "none"
                raise TreeError(f'{what} for the unknown channel "{name}"; channels: {known}')
    for name, mode in input_modes.items():
        if mode not in INPUT_MODES:
            raise TreeError(f'input mode "{mode}" of {name}; allowed: {", ".join(INPUT_MODES)}')
    _check_directory(directory)


def clear(directory: Path, keep_checkpoints: bool = False) -> None:
    """Make the directory, or remove from it what an earlier job left."""
    names = ["code", "input", "model", "output", "model.tar.gz", "output.tar.gz", "job.json"]
    if not keep_checkpoints:
        names.append("checkpoints")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER).touch()
        for path in [*(directory / name for name in names), *directory.glob("algo-*")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except PermissionError as error:
        raise TreeError(
            f"{error.strerror}: {error.filename}. A container, which runs as root, may have "
            f"written it; type: sudo rm -r {directory}"
        ) from error


def _check_hyperparameters(hyperparameters: Mapping[str, str]) -> None:
    if len(hyperparameters) > MAX_HYPERPARAMETERS:
        raise TreeError(
            f"{len(hyperparameters)} hyperparameters; SageMaker allows {MAX_HYPERPARAMETERS}"
        )
    for key, value in hyperparameters.items():
        if len(key) > MAX_KEY:
            raise TreeError(
                f"hyperparameter {key[:20]}... has a name of {len(key)} characters; "
                f"SageMaker allows {MAX_KEY}"
            )
        if len(value) > MAX_VALUE:
            raise TreeError(
                f"hyperparameter {key} has {len(value)} characters; SageMaker allows {MAX_VALUE}"
            )


def _check_channels(channels: Mapping[str, Path], directory: Path) -> None:
    if len(channels) > MAX_CHANNELS:
        raise TreeError(f"{len(channels)} channels; SageMaker allows {MAX_CHANNELS}")
    for name, path in channels.items():
        # The second check is for "." and "..", which the API lets pass and a path does not.
        if not CHANNEL_NAME.fullmatch(name) or not name.strip("."):
            raise TreeError(
                f'channel name "{name}" is not allowed; a name has 1 to 64 of the characters '
                "A-Z a-z 0-9 . _ -"
            )
        if not path.exists():
            raise TreeError(f"channel {name}: {path} does not exist; give a file or a directory")
        source = path.resolve()
        if source == directory or source in directory.parents or directory in source.parents:
            raise TreeError(
                f"channel {name}: {path} and the tree {directory} contain one another; "
                "keep the data outside the tree"
            )


def _check_directory(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise TreeError(f"{directory} is not a directory")
    if any(directory.iterdir()) and not (directory / MARKER).is_file():
        raise TreeError(
            f"{directory} is not empty and was not made by this program, so it is left alone; "
            "name a new or an empty directory"
        )


def _copy(source: Path, channel: Path, part: slice) -> None:
    channel.mkdir()
    for path in files(source, part):
        target = channel / (path.relative_to(source) if source.is_dir() else path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _input_data_config(
    channels: Mapping[str, Path],
    content_types: Mapping[str, str],
    input_modes: Mapping[str, str],
    sharded: Collection[str],
) -> dict[str, dict[str, str]]:
    config = {}
    for name in channels:
        content_type = {"ContentType": content_types[name]} if name in content_types else {}
        config[name] = {
            **content_type,
            "TrainingInputMode": INPUT_MODES[input_modes.get(name, "File")],
            "S3DistributionType": "ShardedByS3Key" if name in sharded else "FullyReplicated",
            "RecordWrapperType": "None",
        }
    return config


def _resource_config(hosts: Sequence[str], host: str) -> dict[str, Any]:
    group = {
        "instance_group_name": GROUP,
        "instance_type": INSTANCE_TYPE,
        "hosts": sorted(hosts),
    }
    return {
        "current_host": host,
        "current_instance_type": INSTANCE_TYPE,
        "current_group_name": GROUP,
        "hosts": sorted(hosts),
        "instance_groups": [group],
        "network_interface_name": "eth0",
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _set_modes(directory: Path) -> None:
    """Let a container of any user read the input and write the rest."""
    directory.chmod(0o755)
    for parent, _, names in os.walk(directory / "input"):
        Path(parent).chmod(0o755)
        for name in names:
            (Path(parent) / name).chmod(0o644)
    for name in ("model", "output", "output/data", "checkpoints"):
        path = directory / name
        # Kept checkpoints can belong to a container's user, who alone may change their mode.
        if path.stat().st_mode & 0o777 != 0o777:
            path.chmod(0o777)
