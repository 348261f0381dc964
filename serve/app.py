"""The routes, and what becomes of an error."""

from __future__ import annotations

import logging
import uuid

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from serve.codec import decode, encoder_for
from serve.errors import RequestError
from serve.predictor import Predictor

__all__ = ["create_app"]

log = logging.getLogger(__name__)


def create_app(predictor: Predictor, max_body: int) -> Flask:
    """Return the WSGI application around a predictor, which may still be loading."""
    app = Flask("serve")
    app.config["MAX_CONTENT_LENGTH"] = max_body

    @app.route("/ping", methods=["GET", "POST"])
    def ping() -> Response:
        if predictor.ready:
            return Response(status=200)
        return _error(503, "not_ready", "the model is still being loaded")

    @app.post("/invocations")
    def invocations() -> Response:
        media_type, encode = encoder_for(request.accept_mimetypes)
        payload = decode(_body(), request.content_type)
        answers = predictor(payload.texts, payload.parameters)
        return Response(encode(answers), content_type=media_type)

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        return _error(error.status, error.code, str(error))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        limit = f"{max_body / 2**20:g} MB"
        message = f"the body is larger than {limit}; send fewer texts at once, or raise "
        return _error(413, "too_large", message + "SAGEMAKER_MAX_PAYLOAD_IN_MB")

    @app.errorhandler(HTTPException)
    def unknown_route(error: HTTPException) -> Response:
        status = error.code or 500
        message = f"{error.name}: {request.method} {request.path}; there are GET /ping and "
        return _error(status, error.name.lower().replace(" ", "_"), message + "POST /invocations")

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        answer = _error(500, "internal_error", "this is a fault of the server, not of the request")
        log.exception("request %s failed", answer.headers["X-Request-Id"])
        return answer

    return app


def _body() -> bytes:
    body = request.get_data(cache=False)
    # Without a Content-Length the body ends at the limit; reading on is what raises 413.
    request.stream.read(1)
    return body


def _error(status: int, code: str, message: str) -> Response:
    request_id = uuid.uuid4().hex[:12]
    body = {"error": {"code": code, "message": message, "request_id": request_id}}
    response = jsonify(body)
    response.status_code = status
    response.headers["X-Request-Id"] = request_id
    return response
