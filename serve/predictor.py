"""The model behind the routes: loaded once, warmed up, then shared by all requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serve import metrics
from serve.batcher import Batcher, Job
from serve.encoders import Answer
from serve.errors import BadRequest, NotReady, RequestError
from serve.invocation import PATIENCE, Clock
from serve.parameters import Parameters
from serve.records import Record
from serve.settings import Settings
from serve.streams import shared_streams
from serve.tasks import TASKS, Failure, Several, Task
from textmodel.artifact import ArtifactError
from textmodel.classifier import WINDOW_TEXTS, TextClassifier, load_classifier
from textmodel.priority import FARTHEST, call_at
from textmodel.tokenizer import Tokens, characters_of

__all__ = ["Predictor"]

log = logging.getLogger(__name__)

SMALL = 64
"""Texts up to which a request is mixed with others; a larger one is cut into windows."""
WINDOW_CHARACTERS = 1_000_000
"""Characters of a window at most, but for its last text."""
NICENESS = FARTHEST
"""How far the engine's own threads stand back, which else keep the one that accepts connections
waiting for a core by some milliseconds each time. docs/measured.md has what it gives and costs."""

T = TypeVar("T")
Result = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class _Window:
    """Some records whose texts are executed together."""

    parts: list[RequestError | tuple[int, bool, Parameters]]
    """For each record its number of texts, whether they are a list, and its wishes."""
    tokens: list[Tokens]
    job: Job[Result]


class Predictor:
    """Answers records of many clients at once."""

    def __init__(self) -> None:
        self._classifier: TextClassifier | None = None
        self._batcher: Batcher[Result] | None = None
        self._task: Task | None = None

    @property
    def fault(self) -> str:
        """Why nothing can be answered now; empty when it can."""
        if self._batcher is None:
            return "the model is still being loaded; ask again when /ping answers 200"
        if self._batcher.broken:
            return "the engine is broken, see the log; this container has to be replaced"
        return ""

    @property
    def header(self) -> list[str]:
        """The names of an answer's cells, where it is a row."""
        return self._task.header if self._task else []

    @property
    def pairs(self) -> bool:
        """Whether the model was trained on pairs of texts."""
        return self._classifier is not None and self._classifier.manifest.pairs

    def load(self, directory: Path, settings: Settings) -> None:
        """Load the model and make a first real prediction.

        Raises:
            ArtifactError: the model directory cannot be used.
        """
        started = time.monotonic()
        classifier = call_at(
            NICENESS,
            load_classifier,
            directory,
            runtime=settings.runtime,
            precision=settings.precision,
            task=settings.task,
            sparing=settings.multi_model,
        )
        proof = classifier.tokenize(["a first text, so that no client pays for the first run"])
        try:
            classifier.execute(proof)
        except ArithmeticError as error:
            raise ArtifactError(f"the model is of no use: {error}") from error
        for choice in classifier.choices:
            log.info("%s", choice)
        runtime = classifier.runtime
        self._classifier = classifier
        self._task = TASKS[classifier.manifest.task](classifier)
        self._batcher = Batcher(
            classifier.execute,
            streams=runtime.streams,
            batching=runtime.batching,
            max_tokens=settings.max_tokens,
            proof=proof[0],
            executed=metrics.batch_executed,
            threads=shared_streams(),
            anywhere=runtime.anywhere,
        )
        metrics.watch_queue(self._batcher)
        log.info(
            "model ready after %.1f s: %d labels",
            time.monotonic() - started,
            len(classifier.labels),
        )

    def unload(self) -> None:
        """Release the model; what still waits for it fails."""
        if self._batcher is not None:
            self._batcher.close()
        self._batcher = self._task = self._classifier = None

    def __call__(self, records: Iterable[Record | RequestError], clock: Clock) -> Iterator[Answer]:
        """Yield the answer to each record; an error in place of a record is its own answer.

        Raises:
            RequestError: the request as a whole is not answered.
        """
        if fault := self.fault:
            raise NotReady(fault)
        windows = self._windows(iter(records), clock)
        window = following = None
        try:
            window = next(windows, None)
            while window is not None:
                following = next(windows, None)  # is tokenised while this one is executed
                yield from self._answers(window, clock)
                window = following
                if window is not None:
                    clock.look()
        finally:
            for left in (window, following):
                if left is not None:  # nobody waits for it any more
                    left.job.cancelled = True

    def _windows(self, records: Iterator[Record | RequestError], clock: Clock) -> Iterator[_Window]:
        """Check, tokenise and submit records, as many at a time as are sorted by length."""
        for number, part in enumerate(_parts(records)):
            started = time.monotonic()
            window = self._prepare(part, clock)
            clock.seconds["tokenize"] += time.monotonic() - started
            if len(window.job.tokens) > SMALL:
                _there(self._batcher).submit_bulk(window.job, clock, number > 0)
            else:
                _there(self._batcher).submit(window.job, number > 0)
            yield window

    def _prepare(self, part: Sequence[Record | RequestError], clock: Clock) -> _Window:
        """Tokenise the texts of some records; what is wrong with one stands in its place."""
        texts = [text for record in part if isinstance(record, Record) for text in record.texts]
        tokens = iter(_there(self._classifier).tokenize(texts) if texts else ())
        parts: list[RequestError | tuple[int, bool, Parameters]] = []
        accepted: list[Tokens] = []
        for record in part:
            if isinstance(record, RequestError):
                parts.append(record)
                continue
            own = list(islice(tokens, len(record.texts)))
            try:
                parameters = self._check(record, own)
            except BadRequest as error:
                parts.append(error)
            else:
                parts.append((len(own), record.many, parameters))
                accepted += own
        return _Window(parts, accepted, Job(accepted, clock.deadline))

    def _check(self, record: Record, tokens: Sequence[Tokens]) -> Parameters:
        """Return the wishes of a record, if this model can fulfil them.

        Raises:
            BadRequest: it cannot.
        """
        parameters = Parameters.read(record.parameters)
        _there(self._task).check(parameters)
        manifest = _there(self._classifier).manifest
        if manifest.pairs and any(isinstance(text, str) for text in record.texts):
            raise BadRequest(
                'this model reads pairs; send {"inputs": {"text": "one", "text_pair": "other"}}'
            )
        if not parameters.truncation and any(one.cut for one in tokens):
            raise BadRequest(
                f"a text has more than the {manifest.max_length} tokens that this model reads; "
                "shorten it, or leave truncation=false out to have it cut"
            )
        return parameters

    def _answers(self, window: _Window, clock: Clock) -> Iterator[Answer]:
        """Wait for a window and yield the answer to each of its records."""
        task, job = _there(self._task), window.job
        results = iter(_wait(job, clock))
        tokens = iter(window.tokens)
        if job.tokens:
            clock.seconds["queue"] += job.started - job.submitted
            clock.seconds["model"] += job.finished - job.started
        for part in window.parts:
            if isinstance(part, RequestError):
                yield Failure(part)
                continue
            count, many, parameters = part
            answers = [
                task.answer(*result, one.cut, parameters)
                for result, one in islice(zip(results, tokens, strict=True), count)
            ]
            yield Several(answers) if many else answers[0]


def _there(part: T | None) -> T:
    """Return a part of the model, if that was not unloaded while a request was answered.

    Raises:
        NotReady: it was.
    """
    if part is None:
        raise NotReady("the model is being unloaded")
    return part


def _parts(records: Iterator[Record | RequestError]) -> Iterator[list[Record | RequestError]]:
    """Cut records into the parts that become windows."""
    part: list[Record | RequestError] = []
    texts = characters = 0
    for record in records:
        part.append(record)
        if isinstance(record, Record):
            texts += len(record.texts)
            characters += sum(map(characters_of, record.texts))
        if max(texts, len(part)) >= WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield part
            part, texts, characters = [], 0, 0
    if part:
        yield part


def _wait(job: Job[Result], clock: Clock) -> Sequence[Result]:
    """Return a job's results.

    Raises:
        ClientGone, TooLate: nobody waits for them any more.
    """
    while not job.wait(PATIENCE):
        clock.look()
    return job.results()
