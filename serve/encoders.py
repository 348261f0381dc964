"""Answers to bodies, by media type. What an answer is made of, each task knows by itself."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from werkzeug.datastructures import MIMEAccept

from serve.decoders import CSV, JSON, LINE_TYPES, NPY
from serve.errors import BadRequest, NotAcceptable

__all__ = ["ENCODERS", "Answer", "Encoder", "best_of", "encoder_for"]


class Answer(Protocol):
    """The answer to a record, in the forms that media types want."""

    def json(self) -> Any:
        """Return what JSON can express."""
        ...

    def cells(self) -> list[Any]:
        """Return the cells of a row."""
        ...

    def array(self) -> NDArray[np.float32]:
        """Return numbers, (texts, numbers).

        Raises:
            RequestError: there are none.
        """
        ...


Encoder = Callable[[Iterable[Answer], list[str]], Iterator[bytes]]
"""Maps answers, and the names of their cells where there is a header, to the parts of a body."""


def encoder_for(accept: MIMEAccept, default: str) -> tuple[str, Encoder]:
    """Return the media type that the client likes best of ENCODERS, and its encoder.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    best = best_of(accept, default, *ENCODERS) if accept else default
    if best is None:
        raise NotAcceptable(
            f"Accept {accept!s:.100} is not written here; accept {', '.join(ENCODERS)}"
        )
    return best, ENCODERS[best]


def best_of(accept: MIMEAccept, *media_types: str) -> str | None:
    """Return the first of the types that a client likes best; None where it accepts none."""
    best = max(media_types, key=partial(_quality, accept))
    return best if _quality(accept, best) else None


def _quality(accept: MIMEAccept, media_type: str) -> float:
    """Return how welcome a type is: what the most specific range for it says (RFC 9110, 12.5.1).

    Parameters are no matter: JSON has none, and clients name charset=utf-8 all the same.
    """
    qualities = {value.partition(";")[0].strip().lower(): quality for value, quality in accept}
    kind = media_type.partition("/")[0]
    ranges = (media_type, f"{kind}/*", "*/*", "*")
    return next((qualities[wanted] for wanted in ranges if wanted in qualities), 0.0)


def _json(answers: Iterable[Answer], header: list[str]) -> Iterator[bytes]:
    yield b"["
    for number, answer in enumerate(answers):
        yield (b", " if number else b"") + _dump(answer.json())
    yield b"]"


def _lines(answers: Iterable[Answer], header: list[str]) -> Iterator[bytes]:
    """One line a record. The platform itself puts a line end between the parts of a file."""
    for number, answer in enumerate(answers):
        yield (b"\n" if number else b"") + _dump(answer.json())


def _csv(answers: Iterable[Answer], header: list[str]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    rows = (answer.cells() for answer in answers)
    for row in chain([header], rows) if header else rows:
        writer.writerow(row)
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()


def _npy(answers: Iterable[Answer], header: list[str]) -> Iterator[bytes]:
    arrays = [array for answer in answers if len(array := answer.array())]
    if len({array.shape[1] for array in arrays}) > 1:
        raise BadRequest("rows of an array are of one length; wish for embeddings always or never")
    buffer = io.BytesIO()
    joined = np.concatenate(arrays) if arrays else np.empty((0, 0), np.float32)
    np.save(buffer, joined, allow_pickle=False)
    yield buffer.getvalue()


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


ENCODERS: dict[str, Encoder] = {
    JSON: _json,
    **dict.fromkeys(LINE_TYPES, _lines),
    CSV: _csv,
    NPY: _npy,
}
