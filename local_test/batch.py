"""Run a batch transform job on this machine as SageMaker runs it.

  python -m local_test batch my-image:latest --model model.tar.gz --input rows.csv \\
      --split line --content-type text/csv --accept text/csv --assemble line

For each FILE there is a FILE.out, with the answers in order. A mini-batch that fails after its
retries leaves its file without one, and the job has failed; the other files are still transformed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from local_test.arguments import ArgumentError, say
from local_test.hosting import MODES, Endpoint
from local_test.serving import add_hosting_arguments, started, stop_and_tell, terminable
from local_test.transform import (
    STRATEGIES,
    Job,
    Parameters,
    TransformError,
    fault_of,
    parameters,
    transform,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_hosting_arguments(parser)
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="a file, or a directory of files; may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where FILE.out is written (default: here)",
    )
    parser.add_argument(
        "--split",
        choices=["line", "none"],
        default="none",
        help="what a record is: a line, or the file (default: none)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="as many records as fit into a mini-batch, or one (default: what the program says at "
        "/execution-parameters, else MultiRecord)",
    )
    parser.add_argument(
        "--max-payload",
        type=int,
        metavar="MB",
        help="of a mini-batch, 0 to 100; 0: the file is streamed (default: the program's, else 6)",
    )
    parser.add_argument(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="mini-batches at a time (default: the program's, else 1)",
    )
    parser.add_argument("--content-type", default="", metavar="TYPE", help="of the input")
    parser.add_argument("--accept", default="", metavar="TYPE", help="of the output")
    parser.add_argument(
        "--assemble",
        choices=["line", "none"],
        default="none",
        help="line: a line break follows each answer (default: none)",
    )
    parser.add_argument(
        "--max-retries",
        type=int,
        choices=range(4),
        default=3,
        help="of a mini-batch that fails (default: 3)",
    )
    parser.add_argument(
        "--invocation-timeout",
        type=int,
        default=600,
        metavar="SECONDS",
        help="1 to 3600 (default: 600)",
    )


def run(arguments: argparse.Namespace) -> int:
    asked, variables = _asked(arguments)
    if fault := fault_of(Parameters(**asked)):
        raise ArgumentError(fault)
    if not 1 <= arguments.invocation_timeout <= 3600:
        raise ArgumentError("--invocation-timeout has to be from 1 to 3600")
    job = Job(
        by_lines=arguments.split == "line",
        assemble_lines=arguments.assemble == "line",
        content_type=arguments.content_type,
        accept=arguments.accept,
        retries=arguments.max_retries,
    )
    files = list(_files(arguments.input))
    mode = MODES["batch"]
    mode = replace(
        mode,
        invocation=arguments.invocation_timeout,
        environment={**mode.environment, **variables},
    )
    with terminable(), started(arguments, mode) as endpoint:
        try:
            endpoint.wait_until_healthy()
            how = parameters(endpoint, asked)
            say(
                f"MaxConcurrentTransforms={how.concurrent}, MaxPayloadInMB={how.payload}, "
                f"BatchStrategy={how.strategy}"
            )
            failed: int | None = sum(
                not _transformed(endpoint, job, how, source, arguments.output / name)
                for source, name in files
            )
        except KeyboardInterrupt:
            failed = None
        stop_and_tell(endpoint)
    if failed is None:
        say("job Stopped")
        return 1
    if failed:
        say(f"job Failed: {failed} of {len(files)} files have no output")
        return 1
    say("job Completed")
    return 0


def _transformed(endpoint: Endpoint, job: Job, how: Parameters, source: Path, stem: Path) -> bool:
    target = stem.with_name(f"{stem.name}.out")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        records, lines = transform(endpoint, job, how, source, target)
    except TransformError as error:
        say(f"{error}; there is no {target}")
        return False
    say(f"{target}: {records} records in, {lines} lines out")
    return True


def _asked(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters that the job sets, and their variables."""
    strategy = arguments.strategy and STRATEGIES[arguments.strategy]
    given = [
        ("concurrent", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", arguments.max_concurrent),
        ("strategy", "SAGEMAKER_BATCH_STRATEGY", strategy),
        ("payload", "SAGEMAKER_MAX_PAYLOAD_IN_MB", arguments.max_payload),
    ]
    asked = {name: value for name, _, value in given if value is not None}
    return asked, {name: str(value) for _, name, value in given if value is not None}


def _files(paths: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield each input file with its name under the output directory.

    Raises:
        ArgumentError: there is none.
    """
    for path in paths:
        if path.is_file():
            yield path, Path(path.name)
            continue
        found = sorted(file for file in path.rglob("*") if file.is_file())
        if not found:
            raise ArgumentError(f"--input {path}: there is no such file, and no directory with any")
        yield from ((file, file.relative_to(path)) for file in found)
