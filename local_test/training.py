"""Run a training job as SageMaker does, without an AWS account and without a network.

  python -m local_test train optml-train-cpu:latest --data train=train.csv --hyperparameter epochs=2
  python -m local_test train my-image --data train=data --input-mode train=FastFile --max-runtime 60
  python -m local_test train my-image --data train=data --sharded train --instances 2
  python -m local_test train my-image --data train=data --checkpoints ck --spot-interrupt 30x3
  python -m local_test train --data train=local_test/data/messages.csv

The container is started as `docker run IMAGE train`. Without an IMAGE, or without an engine, the
program of this repository runs bare. Ctrl-C and SIGTERM stop the job as StopTrainingJob does:
SIGTERM, and SIGKILL 120 s later; a second Ctrl-C does not wait so long.

The directory of --output becomes /opt/ml and is emptied first (with several instances it holds one
tree a host: algo-1, algo-2, …). Afterwards it also holds model.tar.gz, output.tar.gz, and job.json,
which is what DescribeTrainingJob would answer.

The exit status is the program's own (with several instances, that of the host that failed first);
2 also stands for wrong arguments, 1 also for an engine that is missing something.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from local_test import opt_ml
from local_test.arguments import ArgumentError, add_pairs, engine_for, pairs, say
from local_test.description import REGION, arn, describe
from local_test.job import Job, Request
from local_test.launchers import Bare, Contained, Launcher
from local_test.metrics import read_definitions
from local_test.programs import Engine
from local_test.source import CHANNEL, submit

__all__ = ["add_arguments", "run"]

OUTPUT = Path(__file__).resolve().with_name("opt_ml")

# Limits of the CreateTrainingJob API.
VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,511}")
MAX_VARIABLES = 100
MAX_VARIABLE = 512

INTERRUPTION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:x([1-9][0-9]*))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="any image with a `train`")
    data = parser.add_argument_group("input")
    add_pairs(data, "data", "CHANNEL=PATH", "a file or a directory for a channel")
    add_pairs(data, "content-type", "CHANNEL=TYPE", "ContentType of a channel")
    add_pairs(data, "input-mode", "CHANNEL=MODE", "File (default), FastFile or Pipe")
    data.add_argument(
        "--sharded",
        action="append",
        default=[],
        metavar="CHANNEL",
        help="ShardedByS3Key: a part of the files for each instance; may be repeated",
    )
    add_pairs(data, "hyperparameter", "KEY=VALUE", "arrives as a string")
    data.add_argument(
        "--quoting",
        choices=["plain", "sdk-v2"],
        default="plain",
        help="values as given, as boto3 and SDK 3 send them, or as SDK 2 does for "
        "scripts: JSON, strings in quotes (default: plain)",
    )
    data.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="send this code as SDK 2 does, to an image that runs scripts",
    )
    data.add_argument(
        "--entry-point", metavar="FILE", help="what to start in it (default: train.py)"
    )
    add_pairs(data, "env", "NAME=VALUE", "an entry of the job's Environment")

    platform = parser.add_argument_group("platform")
    platform.add_argument(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="containers on a private network, algo-1 to algo-N (default: 1)",
    )
    platform.add_argument(
        "--container-entrypoint",
        default="",
        metavar="WORDS",
        help="ContainerEntrypoint, instead of the image's own: quoted as for a shell",
    )
    platform.add_argument(
        "--container-arguments",
        default="",
        metavar="WORDS",
        help="ContainerArguments, instead of `train`",
    )
    platform.add_argument("--network", action="store_true", help="lift the network isolation")
    platform.add_argument(
        "--read-only",
        action="store_true",
        help="a read-only root, but for /opt/ml and /tmp: stricter than the platform",
    )
    platform.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="where /opt/ml/checkpoints outlives interruptions and the job",
    )
    platform.add_argument(
        "--spot-interrupt",
        action="append",
        default=[],
        metavar="SECONDS[xN]",
        help="interrupt so long after the start, and start again with the "
        "checkpoints, N times; may be repeated",
    )
    platform.add_argument(
        "--max-runtime",
        type=float,
        default=86400.0,
        metavar="SECONDS",
        help="MaxRuntimeInSeconds (default: a day)",
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="DIR",
        help="becomes /opt/ml and holds the results (default: local_test/opt_ml)",
    )
    add_pairs(results, "metric", "NAME=REGEX", "a metric to find in the log")
    results.add_argument(
        "--metric-definitions",
        type=Path,
        metavar="FILE",
        help='such metrics as the API has them: [{"Name": …, "Regex": …}]; '
        "the image of this project prints its own: `train --metric-definitions`",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the job that the arguments describe; return the exit status."""
    engine = engine_for(arguments.image)
    with tempfile.TemporaryDirectory() as scratch:
        request = _request(arguments, Path("/opt/ml") if engine else None, Path(scratch))
        if engine:
            entrypoint = shlex.split(arguments.container_entrypoint)
            launcher: Launcher = Contained(
                engine, arguments.image, entrypoint, shlex.split(arguments.container_arguments)
            )
        else:
            _check_bare(request, arguments)
            launcher = Bare()
        with _network(request, engine) as network:
            job = Job(replace(request, network=network), launcher)
            with _stopped_by_signals(job):
                job.run()
    return _report(job, arguments.image if engine else None)


def _request(arguments: argparse.Namespace, base: Path | None, scratch: Path) -> Request:
    channels = {name: Path(path) for name, path in pairs("data", arguments.data).items()}
    hyperparameters = pairs("hyperparameter", arguments.hyperparameter)
    if arguments.entry_point and not arguments.source:
        raise ArgumentError("--entry-point needs --source")
    if arguments.source:
        entry_point = arguments.entry_point or "train.py"
        base = base or arguments.output.resolve()
        channels[CHANNEL], more = submit(arguments.source, entry_point, scratch, base)
        hyperparameters |= more
    if arguments.quoting == "sdk-v2":
        hyperparameters = {
            key: opt_ml.quote_as_sdk_v2(value) for key, value in hyperparameters.items()
        }
    metrics = pairs("metric", arguments.metric)
    if arguments.metric_definitions:
        metrics = read_definitions(arguments.metric_definitions) | metrics
    name = f"local-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime())}-{os.getpid()}"
    if arguments.instances < 1:
        raise ArgumentError(f"--instances {arguments.instances}: a job has at least one")
    if arguments.max_runtime < 1:
        raise ArgumentError(f"--max-runtime {arguments.max_runtime:g}: at least 1")
    interruptions = _interruptions(arguments.spot_interrupt)
    if interruptions and not arguments.checkpoints:
        say("without --checkpoints, an interrupted job begins anew")
    return Request(
        name=name,
        output=arguments.output,
        channels=channels,
        content_types=pairs("content-type", arguments.content_type),
        input_modes=pairs("input-mode", arguments.input_mode),
        sharded=arguments.sharded,
        hyperparameters=hyperparameters,
        environment={
            "TRAINING_JOB_NAME": name,
            "TRAINING_JOB_ARN": arn(name),
            "AWS_REGION": REGION,
            **_environment(arguments.env),
        },
        metrics=metrics,
        instances=arguments.instances,
        checkpoints=arguments.checkpoints,
        interruptions=interruptions,
        max_runtime=arguments.max_runtime,
        isolated=not arguments.network,
        read_only=arguments.read_only,
    )


def _check_bare(request: Request, arguments: argparse.Namespace) -> None:
    if arguments.container_entrypoint or arguments.container_arguments:
        raise ArgumentError("--container-entrypoint and --container-arguments need an image")
    if request.instances > 1:
        raise ArgumentError(
            f"--instances {request.instances} needs an image and an engine: bare programs would "
            "share one address"
        )
    if "FastFile" in request.input_modes.values():
        say("not kept: that a FastFile channel is read-only")


@contextmanager
def _network(request: Request, engine: Engine | None) -> Iterator[str]:
    """Yield the network of the job's containers."""
    if engine and (request.instances > 1 or not request.isolated):
        with engine.network(internal=request.isolated) as name:
            yield name
    else:
        yield "none"


@contextmanager
def _stopped_by_signals(job: Job) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the job as StopTrainingJob does."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: job.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _report(job: Job, image: str | None) -> int:
    """Write job.json, tell how the job ended, and return the exit status."""
    path = job.request.output / "job.json"
    description = json.dumps(describe(job, image), indent=2, ensure_ascii=False)
    path.write_text(description + "\n", encoding="utf-8")
    if job.metrics.definitions:
        say(f"metrics\n{job.metrics.table()}")
    for archive in job.archives.values():
        say(f"packed {archive}")
    if "model.tar.gz" not in job.archives and job.status != "Failed":
        say("/opt/ml/model is empty: there is no model.tar.gz")
    if job.reason:
        say(f"FailureReason: {job.reason}")
    hosts = job.request.instances
    each = f" on each of {hosts} instances" if hosts > 1 else ""
    ended = "" if job.secondary_status == job.status else f" ({job.secondary_status})"
    say(
        f"{job.status}{ended}, exit status {job.code}, {job.billable_seconds:.0f} billable seconds"
        f"{each}; {path}"
    )
    return job.code


def _environment(texts: list[str]) -> dict[str, str]:
    variables = pairs("env", texts)
    if len(variables) > MAX_VARIABLES:
        raise ArgumentError(f"{len(variables)} variables; SageMaker allows {MAX_VARIABLES}")
    for name, value in variables.items():
        if not VARIABLE.fullmatch(name) or len(value) > MAX_VARIABLE:
            raise ArgumentError(
                f'--env "{name}": names are letters, digits and _, and begin with no digit; '
                f"SageMaker allows values of {MAX_VARIABLE} characters"
            )
    return variables


def _interruptions(texts: list[str]) -> list[float]:
    found = []
    for text in texts:
        match = INTERRUPTION.fullmatch(text)
        if not match:
            raise ArgumentError(f'--spot-interrupt "{text}" is not of the form 30 or 30x5')
        found += [float(match[1])] * int(match[2] or 1)
    return found
