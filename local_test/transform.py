"""A file and a served model become a file of answers, as in a batch transform job."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_test.arguments import say
from local_test.exchange import Unanswered, ask
from local_test.hosting import MB, Endpoint, HostingError
from local_test.mini_batches import MiniBatch, RecordError, cut

__all__ = [
    "MAX_PAYLOAD",
    "STRATEGIES",
    "Job",
    "Parameters",
    "TransformError",
    "fault_of",
    "parameters",
    "transform",
]

STRATEGIES = {"MultiRecord": "MULTI_RECORD", "SingleRecord": "SINGLE_RECORD"}
"""By their names in the API: those in variables and in /execution-parameters."""
MAX_PAYLOAD = 100
"""MB of a mini-batch, and of all that are sent at a time."""
SHOWN = 300
"""Characters of a refusal that are told."""


class TransformError(Exception):
    """A file has no output; the message says where and why."""


@dataclass(frozen=True)
class Parameters:
    """How input is sent."""

    concurrent: int = 1
    strategy: str = "MULTI_RECORD"
    payload: int = 6
    """MB; 0: streamed."""


@dataclass(frozen=True)
class Job:
    """What CreateTransformJob asks for, but for `Parameters`."""

    by_lines: bool = False
    assemble_lines: bool = False
    content_type: str = ""
    accept: str = ""
    retries: int = 3


def parameters(endpoint: Endpoint, asked: Mapping[str, Any]) -> Parameters:
    """Return what the job asks for, else what the program likes, else the service's defaults.

    Args:
        asked: fields of `Parameters`, those that the job sets.

    Raises:
        HostingError: what /execution-parameters says is not possible.
    """
    try:
        answer = ask(endpoint.address, "GET", "/execution-parameters", endpoint.mode.invocation)
    except Unanswered as error:
        raise HostingError(f"/execution-parameters: {error}") from error
    liked: dict[str, Any] = {}
    if answer.status == 200:
        liked = _read_parameters(answer.body)
        say(f"/execution-parameters: {liked}")
    else:
        say(f"/execution-parameters: status {answer.status}, so the defaults hold")
    chosen = Parameters(**{**liked, **asked})
    if fault := fault_of(chosen):
        raise HostingError(f"{fault} (asked for: {dict(asked)}; /execution-parameters: {liked})")
    return chosen


def transform(
    endpoint: Endpoint, job: Job, how: Parameters, source: Path, target: Path
) -> tuple[int, int]:
    """Write a file's output; return the records sent, and the lines written.

    Raises:
        TransformError: there is no output.
    """
    part = target.with_name(f".{target.name}.part")
    records = lines = 0
    try:
        with part.open("wb") as output:
            for batch, answer in _answers(endpoint, job, how, source):
                output.write(answer + b"\n" if job.assemble_lines else answer)
                records += batch.records
                lines += answer.count(b"\n") + job.assemble_lines
        part.rename(target)
    except RecordError as error:
        raise TransformError(f"{source}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return records, lines


def _answers(
    endpoint: Endpoint, job: Job, how: Parameters, source: Path
) -> Iterator[tuple[MiniBatch, bytes]]:
    """Yield mini-batches with their answers, in order, as many at a time as is allowed."""
    batches = cut(source, job.by_lines, how.strategy == "MULTI_RECORD", how.payload * MB)
    workers = ThreadPoolExecutor(how.concurrent)
    sent: deque[tuple[MiniBatch, Future[bytes]]] = deque()
    try:
        for batch in batches:
            sent.append((batch, workers.submit(_answer, endpoint, job, source, batch)))
            if len(sent) > how.concurrent:
                first, answer = sent.popleft()
                yield first, answer.result()
        for first, answer in sent:
            yield first, answer.result()
    except TransformError:
        workers.shutdown(cancel_futures=True)  # the next file begins when the rest is answered
        raise
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _answer(endpoint: Endpoint, job: Job, source: Path, batch: MiniBatch) -> bytes:
    headers = {"Content-Type": job.content_type, "Accept": job.accept}
    for attempt in range(job.retries + 1):
        try:
            answer = endpoint.invoke(batch.body(), {k: v for k, v in headers.items() if v})
        except Unanswered as error:
            fault = str(error)
        else:
            if 200 <= answer.status < 300:
                return answer.body
            told = answer.body.decode(errors="replace").strip()
            fault = f"status {answer.status}: {told[:SHOWN]}"
        say(f"{source.name}, {batch.place}, attempt {attempt + 1} of {job.retries + 1}: {fault}")
    raise TransformError(f"{source}, {batch.place}: {fault}")


def _read_parameters(body: bytes) -> dict[str, Any]:
    names = {"MaxConcurrentTransforms": "concurrent", "BatchStrategy": "strategy",
             "MaxPayloadInMB": "payload"}  # fmt: skip
    try:
        found = json.loads(body)
    except ValueError as error:
        raise HostingError(f"/execution-parameters is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise HostingError(f"/execution-parameters is no JSON object: {found!r}")
    return {names[name]: value for name, value in found.items() if name in names}


def fault_of(chosen: Parameters) -> str:
    """Return what is wrong with parameters, in words."""
    if type(chosen.concurrent) is not int or chosen.concurrent < 1:
        return f"MaxConcurrentTransforms is {chosen.concurrent!r}; allowed: whole numbers from 1"
    if chosen.strategy not in STRATEGIES.values():
        return f"BatchStrategy is {chosen.strategy!r}; allowed: {', '.join(STRATEGIES.values())}"
    if type(chosen.payload) is not int or not 0 <= chosen.payload <= MAX_PAYLOAD:
        return f"MaxPayloadInMB is {chosen.payload!r}; allowed: 0 to {MAX_PAYLOAD}"
    if chosen.concurrent * chosen.payload > MAX_PAYLOAD:
        return (
            f"MaxConcurrentTransforms x MaxPayloadInMB is {chosen.concurrent * chosen.payload}; "
            f"allowed: at most {MAX_PAYLOAD}"
        )
    return ""
