"""Host a model on this machine as SageMaker hosts it, for clients of its runtime API.

  python -m local_test serve my-image:latest --model model.tar.gz --endpoint-name my-endpoint
  python -m local_test serve --model opt_ml/model --mode serverless

boto3's own client finds it under another address:

  boto3.client("sagemaker-runtime", endpoint_url="http://127.0.0.1:8080")

or, without a change of the script, by AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080.
Signatures are not checked, but boto3 wants some credentials and a region to sign with.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from local_test.arguments import ArgumentError, add_pairs, engine_for, pairs, say
from local_test.async_inference import AsyncInference, StorageError
from local_test.hosting import GRACE, MODES, PING_INTERVAL, Endpoint, Mode, host
from local_test.loopback import listen, serving
from local_test.model_data import model_directory
from local_test.runtime_api import create_app

__all__ = [
    "add_arguments",
    "add_hosting_arguments",
    "run",
    "started",
    "stop_and_tell",
    "terminable",
]


def add_hosting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is the same for an endpoint and for a batch transform job."""
    parser.add_argument(
        "image",
        nargs="?",
        help="left out, or without an engine: the bare `serve` of this repository",
    )
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="model.tar.gz, or a directory with what it holds"
    )
    add_pairs(parser, "env", "NAME=VALUE", "an entry of the model's Environment")
    parser.add_argument(
        "--user", default="", help="UID:GID of the container (default: the image's)"
    )
    parser.add_argument(
        "--writable-root",
        action="store_true",
        help="let the container write outside of /tmp; to its model it never can",
    )
    parser.add_argument(
        "--startup-timeout",
        type=float,
        metavar="SECONDS",
        help="until /ping answers 200; an endpoint may have up to 3600 "
        "(default: 480, serverless 180)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_hosting_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="realtime",
        help="whose limits hold (default: realtime); serverless also takes the user 65534:65534, "
        "batch sets SAGEMAKER_BATCH",
    )
    parser.add_argument(
        "--endpoint-name",
        default="",
        metavar="NAME",
        help="the only one that is answered (default: any is)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="of 127.0.0.1, 0 for any (default: 8080)"
    )
    parser.add_argument(
        "--s3",
        type=Path,
        metavar="DIR",
        help="mode async: stands in for S3, s3://BUCKET/KEY is DIR/BUCKET/KEY",
    )
    parser.add_argument(
        "--s3-output",
        default="s3://local/async",
        metavar="URI",
        help="mode async: where answers are stored (default: s3://local/async)",
    )


def run(arguments: argparse.Namespace) -> int:
    asynchronous = arguments.mode == "async"
    if asynchronous and not (arguments.s3 and arguments.s3.is_dir()):
        raise ArgumentError("--mode async needs --s3 with a directory that stands in for S3")
    with ExitStack() as stack:
        listener = stack.enter_context(listen(arguments.port))
        stack.enter_context(terminable())
        endpoint = stack.enter_context(started(arguments, MODES[arguments.mode]))
        queue = None
        if asynchronous:
            try:
                queue = AsyncInference(endpoint, arguments.s3, arguments.s3_output)
            except StorageError as error:
                raise ArgumentError(f"--s3-output {error}") from error
            stack.callback(queue.close)
        try:
            say(f"/ping answered 200 after {endpoint.wait_until_healthy():.1f} s")
            app = create_app(endpoint, arguments.endpoint_name, queue)
            address = stack.enter_context(serving(app, listener))
            say(
                f'endpoint_url="{address}"; the program itself: {endpoint.address}; Ctrl-C stops it'
            )
            code = _watch(endpoint)
            say(f"the program ended with exit status {code}; SageMaker would replace the instance")
            return 1
        except KeyboardInterrupt:
            return stop_and_tell(endpoint)


@contextmanager
def started(arguments: argparse.Namespace, mode: Mode) -> Iterator[Endpoint]:
    """Yield the endpoint that the arguments of `add_hosting_arguments` ask for."""
    environment = pairs("env", arguments.env)
    limit = arguments.startup_timeout
    if limit is not None and not 0 < limit <= 3600:
        raise ArgumentError(f"--startup-timeout {limit:g} is not above 0 and at most 3600")
    if limit:
        mode = replace(mode, startup=limit)
    with ExitStack() as stack:
        engine = engine_for(arguments.image)
        model = arguments.model and stack.enter_context(model_directory(arguments.model))
        yield stack.enter_context(
            host(
                *(engine, arguments.image, model, mode, environment, arguments.user),
                read_only=not arguments.writable_root,
                listener=show,
            )
        )


def show(line: str) -> None:
    """Pass on a line that the program said."""
    print(line, flush=True)


def stop_and_tell(endpoint: Endpoint) -> int:
    """Stop the program; return 1 if it had to be killed, which is told."""
    say(f"SIGTERM; the program has {GRACE:g} s")
    seconds = endpoint.stop()
    code = endpoint.program.wait()
    if seconds >= GRACE:
        say(f"the program did not end within {GRACE:g} s of SIGTERM, and was killed")
        return 1
    say(f"the program ended after {seconds:.1f} s with exit status {code}")
    return 0


def _watch(endpoint: Endpoint) -> int:
    """Ping the program until it ends; return its exit status."""
    before = ""
    while True:
        try:
            return endpoint.program.wait(PING_INTERVAL)
        except TimeoutError:
            fault = endpoint.ping()
        if fault:
            say(f"/ping failed: {fault}; SageMaker replaces an instance that goes on like this")
        elif before:
            say("/ping answers 200 again")
        before = fault


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
