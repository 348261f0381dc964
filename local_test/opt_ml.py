#!/usr/bin/env python3
"""Build an /opt/ml tree as Amazon SageMaker does before it starts a training container.

    python local_test/opt_ml.py /tmp/opt_ml --channel train=local_test/data/messages.csv \\
        --content-type train=text/csv --hyperparameter epochs=2 --hyperparameter lr=3e-5

In a directory that an earlier call built, everything of the earlier job is removed first. Any other
directory that is not empty is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["TreeError", "build", "quote_as_sdk_v2"]

MARKER = ".made_by_local_test"

# Limits of the CreateTrainingJob API.
CHANNEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_CHANNELS = 20
MAX_HYPERPARAMETERS = 100
MAX_KEY = 256
MAX_VALUE = 2500

RESOURCES = {
    "current_host": "algo-1",
    "current_instance_type": "ml.m5.xlarge",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-1"],
    "instance_groups": [
        {
            "instance_group_name": "homogeneousCluster",
            "instance_type": "ml.m5.xlarge",
            "hosts": ["algo-1"],
        }
    ],
    "network_interface_name": "eth0",
}


class TreeError(Exception):
    """The caller asked for a tree that SageMaker would not build, or that cannot be built here."""


def build(
    directory: Path,
    channels: Mapping[str, Path],
    content_types: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    keep_checkpoints: bool = False,
) -> None:
    """Create the tree; nothing is touched unless all arguments are valid."""
    directory = directory.resolve()
    _check_hyperparameters(hyperparameters)
    _check_channels(channels, content_types, directory)
    _check_directory(directory)

    _empty(directory, keep_checkpoints)
    for name, source in channels.items():
        _copy(source, directory / "input" / "data" / name)
    config = directory / "input" / "config"
    _write(config / "hyperparameters.json", hyperparameters)
    _write(config / "inputdataconfig.json", _input_data_config(channels, content_types))
    _write(config / "resourceconfig.json", RESOURCES)
    _set_modes(directory)


def quote_as_sdk_v2(value: str) -> str:
    """Return the JSON text that version 2 of the SageMaker Python SDK sends for a value.

    It JSON-encodes what the caller gave it, so strings arrive inside quotes and all else as it is.
    """
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value)
    return value


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


def _check_channels(
    channels: Mapping[str, Path], content_types: Mapping[str, str], directory: Path
) -> None:
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
    for name in content_types:
        if name not in channels:
            known = ", ".join(channels) or "none"
            raise TreeError(f'content type for the unknown channel "{name}"; channels: {known}')


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


def _empty(directory: Path, keep_checkpoints: bool) -> None:
    earlier = ["code", "input", "model", "model.tar.gz", "output"]
    if not keep_checkpoints:
        earlier.append("checkpoints")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER).touch()
        for name in earlier:
            path = directory / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_symlink() or path.exists():
                path.unlink()
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (directory / name).mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise TreeError(
            f"{error.strerror}: {error.filename}. A container, which runs as root, may have "
            f"written it; type: sudo rm -r {directory}"
        ) from error


def _copy(source: Path, channel: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, channel)
    else:
        channel.mkdir()
        shutil.copy(source, channel)


def _input_data_config(
    channels: Iterable[str], content_types: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    config = {}
    for name in channels:
        content_type = {"ContentType": content_types[name]} if name in content_types else {}
        config[name] = {
            **content_type,
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
    return config


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to build the tree")
    _add_pairs(parser, "channel", "NAME=PATH", "copy a file or a directory into this channel")
    _add_pairs(parser, "content-type", "CHANNEL=TYPE", "ContentType of a channel")
    _add_pairs(parser, "hyperparameter", "KEY=VALUE", "an entry of hyperparameters.json")
    parser.add_argument(
        "--quoting",
        choices=["plain", "sdk-v2"],
        default="plain",
        help="hyperparameter values as given, as boto3 and the SageMaker Python SDK 3 send them, "
        "or as version 2 does: JSON, strings in quotes (default: plain)",
    )
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep the earlier job's checkpoints, as after a spot interruption",
    )
    arguments = parser.parse_args()
    quote: Callable[[str], str] = quote_as_sdk_v2 if arguments.quoting == "sdk-v2" else str
    try:
        build(
            arguments.directory,
            {name: Path(path) for name, path in _pairs("--channel", arguments.channel).items()},
            _pairs("--content-type", arguments.content_type),
            {k: quote(v) for k, v in _pairs("--hyperparameter", arguments.hyperparameter).items()},
            arguments.keep_checkpoints,
        )
    except TreeError as error:
        print(f"opt_ml.py: {error}", file=sys.stderr)
        sys.exit(2)


def _add_pairs(parser: argparse.ArgumentParser, name: str, form: str, text: str) -> None:
    parser.add_argument(
        f"--{name}", action="append", default=[], metavar=form, help=f"{text}; may be repeated"
    )


def _pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise TreeError(f'{option} "{text}" is not of the form key=value')
        if key in pairs:
            raise TreeError(f'{option} "{key}" is given twice')
        pairs[key] = value
    return pairs


if __name__ == "__main__":
    main()
