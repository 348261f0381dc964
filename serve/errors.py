"""What a client is told. Every error is one row: its code, its status, who is at fault."""

from __future__ import annotations

__all__ = ["BadRequest", "NotAcceptable", "NotReady", "RequestError", "UnsupportedMediaType"]


class RequestError(Exception):
    """Something that the client can mend. The message says what is wrong and what to send."""

    status = 400
    code = "bad_request"


class BadRequest(RequestError):
    """The body cannot be understood."""


class UnsupportedMediaType(RequestError):
    """The body is of a type that is not read here."""

    status = 415
    code = "unsupported_media_type"


class NotAcceptable(RequestError):
    """The client accepts no type that is written here."""

    status = 406
    code = "not_acceptable"


class NotReady(RequestError):
    """The model is still being loaded."""

    status = 503
    code = "not_ready"
