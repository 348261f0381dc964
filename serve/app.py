"""The routes, and what becomes of an error."""

from __future__ import annotations

import io
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, cast

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wsgi import wrap_file

from serve import metrics, model_routes
from serve.body import Body
from serve.device import is_lost
from serve.errors import NotReady, RequestError, UnsupportedMediaType, UserCodeError, body
from serve.ids import new_id
from serve.invocation import ARRIVED, Clock, Invocation, Reply, Servable
from serve.models import Models
from serve.settings import Settings
from serve.worker import closed

__all__ = ["create_app"]

log = logging.getLogger(__name__)

ECHOED = ("X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id")
"""Headers that an answer has from its request: the platform adds none by itself."""
IN_MEMORY = 8 * 2**20
"""Bytes of an answer up to which it is not written to a file in /tmp."""
MOST_TRANSFORMS = 16
"""With 6 MB each they stay below the 100 MB that the platform allows for all of them."""
ROUTES = "GET /ping, POST /invocations, GET /execution-parameters, GET /metrics"
ACCOUNTED = re.compile("/invocations|/models/[^/]+/invoke")
"""Paths of the requests whose time is told."""


def create_app(
    model: Servable | Models,
    settings: Settings,
    lost: Callable[[], None] = lambda: None,
    fault: Callable[[], str] | None = None,
) -> Flask:
    """Return the WSGI application around a model, which may still be loading, or around many.

    Args:
        model: what answers.
        settings: those of this process.
        lost: called where an error says that this process cannot use its GPU any more.
        fault: why the server as a whole is not healthy, or empty; that of the model if not given.
    """
    app = Flask("serve")
    unhealthy = fault or (lambda: model.fault)

    @app.route("/ping", methods=["GET", "POST"])
    def ping() -> Response:
        if reason := unhealthy():
            raise NotReady(reason)
        return Response(status=200)

    @app.post("/invocations")
    def invocations() -> Response:
        return _answer(model, settings)

    if isinstance(model, Models):
        answer = partial(_answer, settings=settings)
        app.register_blueprint(model_routes.many_models(model, answer))
        routes = model_routes.ROUTES
    else:
        app.register_blueprint(model_routes.one_model())
        routes = ROUTES

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        return jsonify(_execution_parameters(settings))

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(), content_type=metrics.CONTENT_TYPE)

    @app.before_request
    def begin() -> None:
        g.started = ARRIVED.get(time.monotonic())
        g.request_id = new_id()
        g.clock = Clock(g.started + settings.timeout, _looker(request.environ))
        metrics.IN_HAND.inc()

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        for name in ECHOED:
            if name in request.headers:
                response.headers[name] = request.headers[name]
        metrics.IN_HAND.dec()
        if ACCOUNTED.fullmatch(request.path):
            _account(response, settings.log_all)
        return response

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        return _error(error.status, error.code, str(error), error.retry_after)

    @app.errorhandler(UserCodeError)
    def failed_in_user_code(error: UserCodeError) -> Response:
        log.error("%s", error, exc_info=error.__cause__, extra={"request_id": g.request_id})
        if is_lost(error):
            lost()
        return refused(error)

    @app.errorhandler(HTTPException)
    def unknown_route(error: HTTPException) -> Response:
        status = error.code or 500
        message = f"{error.name}: {request.method} {request.path:.100}; there are {routes}"
        response = _error(status, error.name.lower().replace(" ", "_"), message)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        log.exception("request %s failed", g.request_id, extra={"request_id": g.request_id})
        if is_lost(error):
            lost()
        return _error(
            500, "internal_error", "this is a fault of the server, not of the request; its log has "
            "the request_id"
        )  # fmt: skip

    return app


def _answer(model: Servable | Models, settings: Settings) -> Response:
    """Have a model answer the current request."""
    reply = model.invoke(_invocation(settings), g.clock)
    response = _response(reply)
    response.status_code = reply.status
    response.headers.update(reply.headers)
    return response


def _invocation(settings: Settings) -> Invocation:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding!r:.40} is not read here; send the body as it is"
        )
    body = io.BufferedReader(Body(request.environ, settings.max_body), 65536)
    accept = request.headers.get("Accept", "")
    headers = cast(Mapping[str, str], request.headers)  # it is one but for its name
    return Invocation(body, request.content_type, accept, headers)


def _response(reply: Reply) -> Response:
    """Make a whole answer: once its first byte is sent, no error could be told any more."""
    start = io.BytesIO()
    parts = iter(reply.parts)
    for part in parts:
        start.write(part)
        if start.tell() > IN_MEMORY:
            return _large_response(start, parts, reply.media_type)
    return Response(start.getvalue(), content_type=reply.media_type)


def _large_response(start: io.BytesIO, parts: Iterator[bytes], media_type: str) -> Response:
    file = tempfile.TemporaryFile(dir="/tmp")  # noqa: SIM115, closed once it is sent
    try:
        file.write(start.getbuffer())
        file.writelines(parts)
    except BaseException:
        file.close()
        raise
    size = file.tell()
    file.seek(0)
    body = wrap_file(request.environ, cast(BinaryIO, file))
    response = Response(body, content_type=media_type, direct_passthrough=True)
    response.content_length = size
    return response


def _execution_parameters(settings: Settings) -> dict[str, Any]:
    """Return what a batch transform job should send, where its creator did not say.

    Of each process, one request is executed while the other one is sent.
    """
    parameters = {
        "MaxConcurrentTransforms": min(MOST_TRANSFORMS, 2 * (settings.workers or 1)),
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": min(6, settings.max_body // 2**20),
    }
    if settings.sdk_local_mode:  # which knows this value by another name, and fails
        del parameters["BatchStrategy"]
    return parameters


def _account(response: Response, log_all: bool) -> None:
    """Tell where the time went: the client, Prometheus and, where it matters, the log."""
    phases = g.clock.seconds
    seconds = time.monotonic() - g.started
    response.headers["Server-Timing"] = ", ".join(
        f"{name};dur={1000 * spent:.1f}" for name, spent in phases.items()
    )
    metrics.answered(response.status_code, seconds, phases)
    inference_id = request.headers.get(ECHOED[1])
    target = request.headers.get("X-Amzn-SageMaker-Target-Model")
    if log_all or inference_id or response.status_code >= 400:
        log.info(
            "%s %s %d", request.method, request.path, response.status_code,
            extra={
                "request_id": g.request_id,
                **({"inference_id": inference_id} if inference_id else {}),
                **({"model": g.model} if "model" in g else {}),
                **({"target_model": target} if target else {}),
                "status": response.status_code,
                "seconds": round(seconds, 4),
                **({"error": g.error} if "error" in g else {}),
            },
        )  # fmt: skip


def _looker(environ: dict[str, Any]) -> Callable[[], bool]:
    """Return a function that tells whether the client has closed its connection."""
    connection = environ.get("gunicorn.socket")
    return lambda: connection is not None and closed(connection)


def _error(status: int, code: str, message: str, retry_after: float | None = None) -> Response:
    g.error = message
    response = jsonify(body(code, message, g.request_id))
    response.status_code = status
    if retry_after is not None:
        response.headers["Retry-After"] = f"{retry_after:.0f}"
    return response
