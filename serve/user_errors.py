"""What the user's own code raises, told apart from what we do: function, line, exception."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.errors import RequestError, UserCodeError, UserCodeRefusal
from textmodel.artifact import ArtifactError

__all__ = ["told_apart"]

LONGEST = 1000
"""Characters of an exception's text that a client gets; the log has all of it."""


@contextmanager
def told_apart(what: str, directory: Path, *, answers: bool = False) -> Iterator[None]:
    """Turn what the code in `directory` raises into an error that says so.

    Args:
        what: the name of what is called.
        directory: where that code lies.
        answers: whether it answers a request, and may refuse it.

    Raises:
        UserCodeRefusal: the code answers, and its exception has an int `status_code` from 400 on,
            as those of AWS's toolkits have.
        UserCodeError: it is any other; SystemExit too, or a thread would end without a word.
        RequestError, ArtifactError: as they are, because only our own code raises them.
    """
    try:
        yield
    except (ArtifactError, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        if answers and isinstance(error, RequestError):
            raise
        text = str(getattr(error, "message", None) or error)[:LONGEST]
        status = getattr(error, "status_code", None)
        if answers and isinstance(status, int) and 400 <= status <= 599:
            raise UserCodeRefusal(text, status) from error
        kind, where = type(error).__name__, _line(error, directory)
        cause = f"{kind}: {text}" if text else kind
        raise UserCodeError(f"{what} failed{where}: {cause}") from error


def _line(error: BaseException, directory: Path) -> str:
    """Return the innermost line of the user's own that the exception came through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {_relative(error.filename, directory)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    return f" at {_relative(own[-1].filename, directory)}:{own[-1].lineno}" if own else ""


def _relative(file: str, directory: Path) -> str:
    path = Path(file)
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)
