"""Requests of many clients, executed together: no timer, little padding, nobody starved.

A stream that is free takes work at once, so a lone request never waits. Its batch is the text that
has waited longest, and those among the next few dozen that suit it best. Requests of very many
texts come in batches that are cut already; they are executed while nothing else waits, and once in
a while all the same.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serve.errors import NotReady, Overloaded, TooLate
from serve.streams import Streams
from textmodel.batching import Batching

__all__ = ["Batcher", "Executed", "Job"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

WINDOW = 64
"""How many waiting texts a batch is chosen from."""
BULK_TURN = 8
"""Batches of small requests after which one of a large request has its turn."""


class Job(Generic[Result]):
    """The texts of one request, on their way through the batcher."""

    def __init__(self, tokens: Sequence[Sized], deadline: float = math.inf) -> None:
        self.tokens = tokens
        self.deadline = deadline
        """When nobody waits for the answer any more, by `time.monotonic`."""
        self.cancelled = False
        """Set by whoever waits, once nobody does: what has not started yet is dropped."""
        self.submitted = time.monotonic()
        self.started = self.finished = 0.0
        self._results: list[Any] = [None] * len(tokens)
        self._left = len(tokens)
        self._error: Exception | None = None
        self._done = threading.Event()
        if not tokens:
            self._done.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the job is done, after at most so many seconds."""
        return self._done.wait(timeout)

    def results(self) -> list[Result]:
        """Return the results in the order of the texts, once they are there.

        Raises:
            Exception: what executing one of them raised.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._results

    @property
    def over(self) -> bool:
        """Whether nobody waits for what is left of it."""
        return self.cancelled or self._error is not None

    def fail(self, error: Exception) -> None:
        """End the job with an error."""
        self._error = self._error or error
        self.finished = time.monotonic()
        self._done.set()


@dataclass(frozen=True, eq=False, slots=True)
class _Item(Generic[Result]):
    job: Job[Result]
    place: int
    length: int


@dataclass(frozen=True, slots=True)
class Executed:
    """What a batch was, for whoever counts."""

    texts: int
    tokens: int
    padded: int
    """Tokens with the padding."""
    seconds: float


class Batcher(Generic[Result]):
    """Collects tokenised texts, runs `streams` batches of them at a time, hands results back."""

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Iterable[Result]],
        *,
        streams: int,
        batching: Batching,
        max_tokens: int = 2**62,
        proof: Sized | None = None,
        executed: Callable[[Executed], None] = lambda batch: None,
        threads: Streams | None = None,
        anywhere: bool = False,
    ) -> None:
        """Make an empty one.

        Args:
            run: maps a batch of texts to as many results; `streams` of it run at a time.
            batching: which texts make a batch.
            max_tokens: tokens that may wait.
            proof: a text that is known to be executed; if it no longer is, the engine is broken.
            executed: called after each batch.
            threads: those that batches are executed on; `streams` of its own if not given.
            anywhere: whether other threads may execute, too: then a lone text is executed by the
                one that submits it.
        """
        self.broken = False
        """Whether the engine fails at what it could do before."""
        self._run = run
        self._streams = streams
        self._batching = batching
        self._max_tokens = max_tokens
        self._proof = proof
        self._executed = executed
        self._threads = threads or Streams(streams)
        self._own_threads = threads is None
        self._anywhere = anywhere
        self._scheduled = 0  # turns of threads that are to come or in hand
        self._waiting: deque[_Item[Result]] = deque()
        self._window: list[_Item[Result]] = []  # the oldest of all that wait, oldest first
        self._bulk: dict[object, deque[list[_Item[Result]]]] = {}  # batches of each large request
        self._turns = 0
        self._tokens = 0
        self._small_tokens = 0  # of them, those that no large request keeps waiting
        self._rate = 0.0  # tokens a second of one stream, lately
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waiting_tokens(self) -> int:
        return self._tokens

    def submit(self, job: Job[Result], admitted: bool = False) -> None:
        """Queue the texts of a small request, or of the last part of a large one.

        A lone text may be executed already when this returns.

        Args:
            job: the texts.
            admitted: whether an earlier part of the request was: then this one is not refused.

        Raises:
            Overloaded: so much waits already that they could not be executed by their deadline.
        """
        items = [_Item(job, place, len(text)) for place, text in enumerate(job.tokens)]
        with self._changed:
            tokens = sum(item.length for item in items)
            self._admit(tokens, self._small_tokens, job.deadline, admitted)
            self._small_tokens += tokens
            self._waiting.extend(items)
            lone = self._anywhere and len(items) == 1 and not self._scheduled
            if lone:
                self._scheduled += 1
            else:
                self._schedule(len(items))
        if lone:
            self._threads.run(self._turn)

    def submit_bulk(self, job: Job[Result], owner: object = None, admitted: bool = False) -> None:
        """Queue a part of a large request, in batches that are cut already.

        The parts of one `owner` are executed one after the other, those of several in turns.

        Raises:
            Overloaded: as `submit`.
        """
        items = [_Item(job, place, len(text)) for place, text in enumerate(job.tokens)]
        places = self._batching.cut([item.length for item in items])
        batches = [[items[place] for place in batch] for batch in places]
        with self._changed:
            tokens = sum(item.length for item in items)
            self._admit(tokens, self._tokens, job.deadline, admitted)
            self._bulk.setdefault(job if owner is None else owner, deque()).extend(batches)
            self._schedule(len(batches))

    def close(self) -> None:
        """Return after the batches in hand, when nothing of it is executed; what waits fails."""
        with self._changed:
            self._closed = True
            left = [*self._window, *self._waiting]
            left += [item for queue in self._bulk.values() for batch in queue for item in batch]
        for item in left:
            item.job.fail(NotReady("the model is being unloaded"))
        with self._changed:
            self._changed.wait_for(lambda: not self._scheduled)
        del self._run  # a turn that has just ended may still hold this, but not the model
        if self._own_threads:
            self._threads.close()

    def _admit(self, tokens: int, ahead: int, deadline: float, admitted: bool) -> None:
        if self._closed:
            raise NotReady("the model is being unloaded")
        rate = self._rate * self._streams
        wait = ahead / rate if rate else 0.0
        late = wait > deadline - time.monotonic()
        if not admitted and ahead and (late or ahead + tokens > self._max_tokens):
            raise Overloaded(
                f"{ahead} tokens wait for the model already, about {wait:.0f} s of work; "
                "send less at a time, try again later, or add instances",
                retry_after=max(1.0, math.ceil(wait / 2)),
            )
        self._tokens += tokens

    def _schedule(self, batches: int) -> None:
        for _ in range(min(batches, self._streams - self._scheduled)):
            self._scheduled += 1
            self._threads.submit(self._turn)

    def _turn(self) -> None:
        """Execute a batch; what is left has its turn after the other models'."""
        try:
            batch = self._next_batch()
            now = time.monotonic()  # not before: what came meanwhile did not start before it came
            alive = []
            for item in batch:
                if item.job.deadline < now:
                    item.job.fail(TooLate("the model had no turn for this request in time"))
                if not item.job.over:
                    item.job.started = item.job.started or now
                    alive.append(item)
            if alive:
                self._execute(alive)
        finally:
            with self._changed:
                self._scheduled -= 1
                if self._waits() and not self._closed:
                    self._schedule(1)
                self._changed.notify_all()

    def _execute(self, batch: Sequence[_Item[Result]]) -> None:
        """Run a batch; where that fails, run its texts one by one to find whose fault it is."""
        started = time.monotonic()
        try:
            results = self._run([item.job.tokens[item.place] for item in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            if len(batch) == 1:
                batch[0].job.fail(error)
                self._prove()
                return
            log.warning("a batch of %d texts failed (%s); they run one by one", len(batch), error)
            for item in batch:
                if not item.job.over:
                    self._execute([item])
            return
        seconds = time.monotonic() - started
        self._deliver(pairs)
        lengths = [item.length for item in batch]
        done = Executed(len(batch), sum(lengths), self._batching.executed(lengths), seconds)
        # What a lone short text takes says nothing of how fast full batches are.
        if self._batching.full(lengths):
            rate = done.tokens / max(seconds, 1e-6)
            self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        self._executed(done)

    def _deliver(self, results: Iterable[tuple[_Item[Result], Result]]) -> None:
        done = []
        with self._changed:
            for item, result in results:
                job = item.job
                job._results[item.place] = result
                job._left -= 1
                if not job._left:
                    done.append(job)
        now = time.monotonic()
        for job in done:
            job.finished = now
            job._done.set()

    def _prove(self) -> None:
        """Find out whether a failure is the engine's or the text's."""
        if self._proof is None:
            return
        try:
            list(self._run([self._proof]))
        except Exception:
            log.exception("the engine is broken: it fails at a text that it could execute before")
            self.broken = True

    def _waits(self) -> bool:
        return bool(self._waiting or self._window or self._bulk)

    def _next_batch(self) -> list[_Item[Result]]:
        """Take what is executed next; nothing where other turns have taken all, or at the end."""
        with self._changed:
            if self._closed or not self._waits():
                return []
            small = bool(self._waiting or self._window)
            if self._bulk and (not small or self._turns >= BULK_TURN):
                self._turns = 0
                batch = self._take_bulk()
            else:
                self._turns += 1
                batch = self._take_small()
                self._small_tokens -= sum(item.length for item in batch)
            self._tokens -= sum(item.length for item in batch)
            return batch

    def _take_bulk(self) -> list[_Item[Result]]:
        """Take a batch of the large request that has waited longest for its turn."""
        owner = next(iter(self._bulk))
        batches = self._bulk.pop(owner)
        batch = batches.popleft()
        if batches:
            self._bulk[owner] = batches  # behind the others
        return batch

    def _take_small(self) -> list[_Item[Result]]:
        while self._waiting and len(self._window) < WINDOW:
            self._window.append(self._waiting.popleft())
        places = self._batching.next([item.length for item in self._window], self._streams)
        batch = [self._window[place] for place in places]
        chosen = set(places)
        self._window = [item for place, item in enumerate(self._window) if place not in chosen]
        return batch
