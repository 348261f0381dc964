"""What a client is told. Every error is one row: its code, its status, who is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = [
    "BadModel",
    "BadRequest",
    "ClientGone",
    "ModelExists",
    "NoMemory",
    "NoModel",
    "NotAcceptable",
    "NotReady",
    "Overloaded",
    "RequestError",
    "Stalled",
    "TooLarge",
    "TooLate",
    "UnsupportedMediaType",
    "UserCodeError",
    "UserCodeRefusal",
    "body",
    "causes",
]


class RequestError(Exception):
    """A request that is not answered. The message says what is wrong and what to do."""

    status = 400
    code = "bad_request"
    retry_after: float | None = None
    """Seconds after which the same request may be answered."""


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


class TooLarge(RequestError):
    """The body is longer than is allowed."""

    status = 413
    code = "too_large"


class Stalled(RequestError):
    """The client does not send the rest of its body."""

    status = 408
    code = "stalled"


class NoModel(RequestError):
    """There is no model of that name, or none at that path."""

    status = 404
    code = "model_not_found"


class ModelExists(RequestError):
    """A model of that name is loaded already."""

    status = 409
    code = "model_exists"


class BadModel(RequestError):
    """The directory of a model cannot be used."""

    code = "bad_model"


class NoMemory(RequestError):
    """A model does not fit into memory; the platform unloads others then, and tries again."""

    status = 507
    code = "insufficient_memory"


class NotReady(RequestError):
    """The model is still being loaded, or its engine is broken."""

    status = 503
    code = "not_ready"
    retry_after = 1.0


class Overloaded(RequestError):
    """More waits already than can be answered in time."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLate(RequestError):
    """The time that a client waits has passed before the model had a turn."""

    status = 503
    code = "too_late"
    retry_after = 1.0


class ClientGone(RequestError):
    """Nobody is there to be answered; the status is nginx's for that."""

    status = 499
    code = "client_gone"


class UserCodeError(RequestError):
    """The user's own code failed. The message names the function, the line and the exception."""

    status = 500
    code = "user_code_error"


class UserCodeRefusal(RequestError):
    """The user's own code raised an exception that has the status of the answer with it."""

    code = "refused_by_user_code"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def body(code: str, message: str, request_id: str | None = None) -> dict[str, Any]:
    """Return what stands in the body of an error, or on the line of a bad record."""
    error = {"code": code, "message": message}
    return {"error": error | ({"request_id": request_id} if request_id else {})}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
