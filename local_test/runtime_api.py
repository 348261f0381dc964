"""SageMaker's runtime API in front of an endpoint on this machine, as boto3's client asks it.

Messages are those of the service where they are known from reports of its users; limits and names
are those of botocore's model. Signatures are not checked.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import NoReturn

from flask import Flask, Response, g, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import NotFound

from local_test.arguments import say
from local_test.async_inference import AsyncInference, StorageError
from local_test.event_stream import CONTENT_TYPE, event, exception
from local_test.exchange import TimedOut, Unanswered
from local_test.hosting import Endpoint

__all__ = ["INPUT_HEADERS", "OUTPUT_HEADERS", "RENAMED", "ApiError", "create_app"]

PREFIX = "X-Amzn-SageMaker-"
INPUT_HEADERS = {
    "Content-Type": 1024,
    "Accept": 1024,
    f"{PREFIX}Custom-Attributes": 1024,
    f"{PREFIX}Target-Model": 1024,
    f"{PREFIX}Target-Variant": 63,
    f"{PREFIX}Target-Container-Hostname": 63,
    f"{PREFIX}Inference-Id": 64,
    f"{PREFIX}Enable-Explanations": 64,
    f"{PREFIX}Inference-Component": 63,
    f"{PREFIX}Session-Id": 256,
    f"{PREFIX}Prefix-Aware-Id": 64,
}
"""The headers of a request that reach the container, each with the length of its longest value."""

OUTPUT_HEADERS = (
    "Content-Type",
    f"{PREFIX}Custom-Attributes",
    f"{PREFIX}New-Session-Id",
    f"{PREFIX}Closed-Session-Id",
)
"""The headers of the container's answer that reach the client."""

RENAMED = {
    "InvokeEndpoint": {},
    "InvokeEndpointWithResponseStream": {"Accept": f"{PREFIX}Accept"},
    "InvokeEndpointAsync": {
        "Accept": f"{PREFIX}Accept",
        "Content-Type": f"{PREFIX}Content-Type",
    },
}
"""By operation: headers of the container that have another name in its request."""

ACCOUNT = "123456789012"
VARIANT = "AllTraffic"
CONTAINER = "primary"
INLINE_LIMIT = 128_000
"""Bytes that the body of an asynchronous request may have, which else lies in S3."""
MAX_MESSAGE = 2048
TIMED_OUT = (
    f"Your invocation timed out while waiting for a response from container {CONTAINER}. Review "
    "the latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
)


class ApiError(Exception):
    """An error of the API, with the fields of its body."""

    def __init__(self, status: int, code: str, message: str, **fields: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = {"Message": message, **fields}


def create_app(
    endpoint: Endpoint, name: str = "", asynchronous: AsyncInference | None = None
) -> Flask:
    """Return the API of one endpoint.

    Args:
        name: the only endpoint name that is known; any is if empty.
        asynchronous: what takes InvokeEndpointAsync, and makes it the only operation.
    """
    app = Flask(__name__)
    app.add_url_rule(
        "/endpoints/<name>/invocations",
        "InvokeEndpoint",
        lambda name: _invoke(endpoint, name),
        methods=["POST"],
    )
    app.add_url_rule(
        "/endpoints/<name>/invocations-response-stream",
        "InvokeEndpointWithResponseStream",
        lambda name: _stream(endpoint, name),
        methods=["POST"],
    )
    app.add_url_rule(
        "/endpoints/<name>/async-invocations",
        "InvokeEndpointAsync",
        lambda name: _enqueue(asynchronous),
        methods=["POST"],
    )

    @app.before_request
    def check() -> None:
        g.started = time.monotonic()
        g.request_id = str(uuid.uuid4())
        asked = (request.view_args or {}).get("name")
        if name and asked and asked != name:
            _refuse(f"Endpoint {asked} of account {ACCOUNT} not found.")
        if request.endpoint and (request.endpoint == "InvokeEndpointAsync") != bool(asynchronous):
            kind = "an asynchronous" if asynchronous else "a real-time"
            _refuse(f"Endpoint {asked} is {kind} endpoint, which has no {request.endpoint}.")

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["x-amzn-RequestId"] = g.request_id
        duration = (time.monotonic() - g.started) * 1000
        say(f"{request.endpoint or request.path}: status {response.status_code}, {duration:.0f} ms")
        return response

    app.register_error_handler(ApiError, _error)
    app.register_error_handler(NotFound, lambda _: _error(_unknown_operation()))
    return app


def _invoke(endpoint: Endpoint, name: str) -> Response:
    headers = _passed_on()
    body = _body(endpoint.mode.payload)
    try:
        answer = endpoint.invoke(body, headers)
    except Unanswered as error:
        raise _unanswered(name, error) from error
    if not 200 <= answer.status < 300:
        raise model_error(name, answer.status, answer.body)
    limit = endpoint.mode.payload
    if len(answer.body) > limit:
        raise model_error(
            name, 0, f"The answer has {len(answer.body)} bytes; the limit is {_told(limit)}."
        )
    return Response(answer.body, headers=_returned(answer.headers.items()))


def _stream(endpoint: Endpoint, name: str) -> Response:
    headers = _passed_on()
    body = _body(endpoint.mode.payload)
    try:
        reply = endpoint.begin(body, headers)
        if not 200 <= reply.status < 300:
            raise model_error(name, reply.status, b"".join(reply.parts()))
    except Unanswered as error:
        raise _unanswered(name, error) from error
    reply.extend(endpoint.mode.stream - endpoint.mode.invocation)

    def events() -> Iterator[bytes]:
        try:
            for part in reply.parts():
                yield event("PayloadPart", part)
        except Unanswered as error:
            late = isinstance(error, TimedOut)
            code = "ModelInvocationTimeExceeded" if late else "StreamBroken"
            message = f"{code}: {error}"  # boto3 does not show the code itself
            say(f"InvokeEndpointWithResponseStream: {message}")
            yield exception("ModelStreamError", {"Message": message, "ErrorCode": code})
        finally:
            reply.close()

    answer = _returned(reply.headers.items())
    if "Content-Type" in answer:
        answer[f"{PREFIX}Content-Type"] = answer["Content-Type"]
    answer["Content-Type"] = CONTENT_TYPE
    return Response(events(), headers=answer)


def _enqueue(asynchronous: AsyncInference | None) -> Response:
    assert asynchronous
    headers = _passed_on()
    inference_id = headers.setdefault(f"{PREFIX}Inference-Id", str(uuid.uuid4()))
    location = request.headers.get(f"{PREFIX}InputLocation", "")
    body = _body(INLINE_LIMIT)
    if bool(location) == bool(body):
        _refuse("One of InputLocation and Body is needed, and only one.")
    try:
        places = asynchronous.submit(
            headers,
            location or body,
            _seconds("InvocationTimeoutSeconds", 1, 3600, endpoint_default=900),
            _seconds("RequestTTLSeconds", 60, 21600, endpoint_default=21600),
            request.headers.get(f"{PREFIX}S3OutputPathExtension", ""),
            request.headers.get(f"{PREFIX}Filename", ""),
        )
    except StorageError as error:
        _refuse(str(error))
    return Response(
        json.dumps({"InferenceId": inference_id}),
        202,
        {
            f"{PREFIX}OutputLocation": places.output,
            f"{PREFIX}FailureLocation": places.failure,
        },
        content_type="application/json",
    )


def _passed_on() -> dict[str, str]:
    """Return the headers that the container gets of a request: the known ones, and no other."""
    renamed = RENAMED[str(request.endpoint)]
    found = {}
    for name, limit in INPUT_HEADERS.items():
        value = request.headers.get(renamed.get(name, name))
        if value is None:
            continue
        if len(value) > limit or not value.isascii():
            _refuse(
                f"1 validation error detected: Value at '{name}' failed to satisfy constraint: "
                f"Member must have length less than or equal to {limit}, and be ASCII"
            )
        found[name] = value
    return found


def _returned(headers: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Headers:
    known = {name.lower(): name for name in OUTPUT_HEADERS}
    found = Headers({"x-Amzn-Invoked-Production-Variant": VARIANT})
    for name, value in headers:
        if name.lower() in known:
            found[known[name.lower()]] = value
    return found


def _body(limit: int) -> bytes:
    """Return the body of the request.

    All of it is read even where it is too long: a client that still sends finds no answer.
    """
    parts, size = [], 0
    while part := request.stream.read(2**20):
        size += len(part)
        if size <= limit:
            parts.append(part)
    if size > limit:
        _refuse(
            f"Request {g.request_id} has oversize body. It has {size} bytes, the limit of this "
            f"endpoint is {_told(limit)}."
        )
    return b"".join(parts)


def _seconds(name: str, low: int, high: int, endpoint_default: int) -> int:
    text = request.headers.get(PREFIX + name)
    if text is None:
        return endpoint_default
    if not text.isdecimal() or not low <= int(text) <= high:
        _refuse(f"{name} has to be from {low} to {high}")
    return int(text)


def _told(limit: int) -> str:
    return f"{limit} bytes" if limit % 2**20 else f"{limit} bytes ({limit // 2**20} MB)"


def _refuse(message: str) -> NoReturn:
    raise ApiError(400, "ValidationError", message)


def _unknown_operation() -> ApiError:
    return ApiError(404, "UnknownOperationException", f"no operation has the path {request.path}")


def _unanswered(name: str, error: Unanswered) -> ApiError:
    say(f"/invocations: {error}")
    if isinstance(error, TimedOut):
        return model_error(name, 0, TIMED_OUT)
    return model_error(name, 0, f"Container {CONTAINER} did not answer: {error}")


def model_error(name: str, status: int, body: bytes | str) -> ApiError:
    """Return the ModelError for what a container answered with another status than 200.

    Args:
        status: 0 where it did not answer.
    """
    region = os.environ.get("AWS_REGION", "us-east-1")
    group = f"/aws/sagemaker/Endpoints/{name}"
    text = body if isinstance(body, str) else body.decode(errors="replace")
    begin = (
        f"Received {'client' if 400 <= status < 500 else 'server'} error ({status}) from "
        f'{CONTAINER} with message "'
    )
    end = (
        f'". See https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}'
        f"#logEventViewer:group={group} in account {ACCOUNT} for more information."
    )
    return ApiError(
        424,
        "ModelError",
        begin + text[: MAX_MESSAGE - len(begin) - len(end)] + end,
        OriginalStatusCode=status,
        OriginalMessage=text[:MAX_MESSAGE],
        LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}",
    )


def _error(error: ApiError) -> Response:
    headers: Mapping[str, str] = {"x-amzn-ErrorType": error.code}
    return Response(
        json.dumps(error.fields), error.status, headers, content_type="application/json"
    )
