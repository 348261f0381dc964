"""A model that `train` wrote, behind the formats: the life of a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from serve.decoders import Reader, decode
from serve.encoders import Answer, encoder_for
from serve.invocation import Clock, Invocation, Reply
from serve.predictor import Predictor
from serve.settings import Settings
from serve.tasks import Failure

__all__ = ["TextModel", "all_answered"]


class TextModel:
    """Reads records, has them predicted, writes answers."""

    def __init__(self) -> None:
        self._predictor = Predictor()
        self._batch = False

    @property
    def fault(self) -> str:
        return self._predictor.fault

    def load(self, directory: Path, settings: Settings) -> None:
        self._batch = settings.batch
        self._predictor.load(directory, settings)

    def unload(self) -> None:
        self._predictor.unload()

    def invoke(self, invocation: Invocation, clock: Clock) -> Reply:
        reader = Reader(self._batch, self._predictor.pairs)
        payload = decode(invocation.body, invocation.content_type, reader)
        accept = parse_accept_header(invocation.accept, MIMEAccept)
        media_type, encode = encoder_for(accept, payload.answer_type)
        answers = self._predictor(payload.records, clock)
        header = self._predictor.header if payload.header else []
        return Reply(
            encode(answers if payload.in_place else all_answered(answers), header), media_type
        )


def all_answered(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Pass answers on; a record that cannot be answered fails the request.

    Raises:
        RequestError: there is one.
    """
    for answer in answers:
        if isinstance(answer, Failure):
            raise answer.error
        yield answer
