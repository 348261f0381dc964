from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from serve.batcher import BULK_TURN, WINDOW, Batcher, Executed, Job
from serve.errors import NotReady, Overloaded, TooLate
from tests.serve.conftest import wait_until
from textmodel.batching import Packed, Padded

Text = Sequence[int]
Batch = Sequence[Text]


class Gate:
    """A model that records its batches and works only while it is open; it sums a text up."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, batch: Batch) -> list[int]:
        self.batches.append([len(text) for text in batch])
        self.entered.release()
        assert self.open.wait(60)
        return [sum(text) for text in batch]


def sums(batch: Batch) -> list[int]:
    return [sum(text) for text in batch]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def submit(batcher: Batcher[int], texts: Batch, deadline: float = math.inf) -> Job[int]:
    job = Job[int](texts, deadline)
    batcher.submit(job)
    return job


def submit_bulk(batcher: Batcher[int], texts: Batch, owner: object = None) -> Job[int]:
    job = Job[int](texts)
    batcher.submit_bulk(job, owner)
    return job


def occupy(batcher: Batcher[int], gate: Gate) -> Job[int]:
    """Have the only stream execute a text, so that what is submitted next waits."""
    job = submit(batcher, [[0]])
    assert gate.entered.acquire(timeout=60)
    return job


def after(batcher: Batcher[int], gate: Gate, *jobs: Job[int]) -> list[list[int]]:
    """Open the gate and return the lengths in each batch but the first, once jobs are done."""
    gate.open.set()
    for job in jobs:
        job.results()
    return gate.batches[1:]


# Answers


@pytest.mark.parametrize("anywhere", [False, True])
def test_many_clients_each_get_their_own_answer(anywhere: bool) -> None:
    batcher = Batcher(sums, streams=4, batching=Padded(8), anywhere=anywhere)

    def ask(number: int) -> bool:
        texts = [[number, position] for position in range(number % 5 + 1)]
        return submit(batcher, texts).results() == sums(texts)

    with ThreadPoolExecutor(32) as clients:
        assert all(clients.map(ask, range(2000)))


def test_small_and_large_requests_together_each_get_their_own_answer() -> None:
    batcher = Batcher(sums, streams=3, batching=Padded(4, cut_tokens=16))

    def ask(number: int) -> bool:
        texts = [[number] * (position % 7 + 1) for position in range(number % 90 + 1)]
        job = submit_bulk(batcher, texts) if len(texts) > 40 else submit(batcher, texts)
        return job.results() == sums(texts)

    with ThreadPoolExecutor(24) as clients:
        assert all(clients.map(ask, range(600)))
    assert batcher.waiting_tokens == 0


def test_a_request_without_texts_is_done_at_once() -> None:
    assert submit(Batcher(sums, streams=1, batching=Padded(8)), []).results() == []


# What is executed together


def test_a_lone_text_is_executed_by_the_thread_that_submits_it_if_any_may() -> None:
    def caller(batch: Batch) -> list[int]:
        return [threading.get_ident()] * len(batch)

    here = threading.get_ident()
    anywhere = Batcher(caller, streams=2, batching=Padded(8), anywhere=True)
    assert submit(anywhere, [[1]]).results() == [here]
    assert here not in submit(anywhere, [[1], [2]]).results()
    assert here not in submit_bulk(anywhere, [[1]]).results()
    assert here not in submit(Batcher(caller, streams=2, batching=Padded(8)), [[1]]).results()


def test_a_text_that_is_not_alone_waits_for_its_turn_wherever_it_may_be_executed(
    gate: Gate,
) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8), anywhere=True)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(submit, batcher, [[7]])
        assert gate.entered.acquire(timeout=60)
        waiting = [submit(batcher, [[1]]), submit(batcher, [[2]])]  # returns at once
        gate.open.set()
        assert first.result().results() == [7]
    assert [job.results() for job in waiting] == [[1], [2]]
    assert gate.batches == [[1], [1, 1]]


def test_a_text_that_fails_where_it_is_submitted_fails_as_any_other() -> None:
    def failing(batch: Batch) -> list[int]:
        raise ValueError("no")

    batcher = Batcher(failing, streams=1, batching=Padded(8), anywhere=True)
    with pytest.raises(ValueError, match="no"):
        submit(batcher, [[1]]).results()


def test_a_lone_text_runs_at_once_and_alone(gate: Gate) -> None:
    gate.open.set()
    assert submit(Batcher(gate, streams=2, batching=Padded(8)), [[1, 2, 3]]).results() == [6]
    assert gate.batches == [[3]]


def test_texts_of_like_length_run_together(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(2))
    occupy(batcher, gate)
    job = submit(batcher, [[0] * length for length in (50, 4, 51, 5)])
    assert [sorted(batch) for batch in after(batcher, gate, job)] == [[50, 51], [4, 5]]


def test_a_batch_has_no_more_tokens_than_allowed_padding_included(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8, 100))
    occupy(batcher, gate)
    job = submit(batcher, [[0] * length for length in (30, 30, 31, 30, 200, 10, 10)])
    batches = after(batcher, gate, job)
    assert sorted(chain.from_iterable(batches)) == [10, 10, 30, 30, 30, 31, 200]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(batch) <= 100
    assert [200] in batches


def test_the_longest_waiting_text_is_in_the_next_batch_however_odd_its_length(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(4))
    occupy(batcher, gate)
    job = submit(batcher, [[0] * 500, *([0] * 5 for _ in range(WINDOW * 2))])
    assert 500 in after(batcher, gate, job)[0]


@pytest.mark.parametrize(("texts", "batches"), [(3, [2, 1]), (7, [4, 2, 1]), (21, [8, 8, 4, 1])])
def test_few_sizes_of_batches_are_executed(gate: Gate, texts: int, batches: list[int]) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8))
    occupy(batcher, gate)
    job = submit(batcher, [[1]] * texts)
    assert [len(batch) for batch in after(batcher, gate, job)] == batches


def test_what_waits_is_shared_out_to_all_streams(gate: Gate) -> None:
    job = submit(Batcher(gate, streams=2, batching=Padded(8)), [[1]] * 8)
    assert gate.entered.acquire(timeout=60)
    assert gate.entered.acquire(timeout=60)
    assert gate.batches[0] == [1] * 4
    gate.open.set()
    assert job.results() == [1] * 8


def test_each_batch_is_told_with_its_texts_and_tokens(gate: Gate) -> None:
    told: list[Executed] = []
    batcher = Batcher(gate, streams=1, batching=Padded(8), executed=told.append)
    occupy(batcher, gate)
    after(batcher, gate, submit(batcher, [[0] * 3, [0] * 5]))
    batcher.close()
    wait_until(lambda: len(told) == 2)
    assert (told[1].texts, told[1].tokens, told[1].padded) == (2, 8, 10)


def test_texts_that_are_packed_fill_a_row_with_those_that_have_waited_longest(gate: Gate) -> None:
    told: list[Executed] = []
    batcher = Batcher(gate, streams=1, batching=Packed(16), executed=told.append)
    occupy(batcher, gate)
    job = submit(batcher, [[0] * length for length in (100, 60, 20, 7, 70, 50)])
    assert after(batcher, gate, job) == [[100, 20, 7], [60, 50], [70]]
    batcher.close()
    wait_until(lambda: len(told) == 4)
    assert [batch.padded for batch in told[1:]] == [128] * 3


# Two lanes


def test_a_large_request_runs_in_batches_of_like_lengths(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(2, cut_tokens=27))
    occupy(batcher, gate)
    job = submit_bulk(batcher, [[0] * length for length in (1, 9, 2, 8, 3, 7)])
    assert after(batcher, gate, job) == [[9, 8, 7], [3, 2, 1]]


def test_small_requests_go_before_a_large_one(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(1, cut_tokens=100))
    occupy(batcher, gate)
    large = submit_bulk(batcher, [[0] * 50] * 4)
    small = submit(batcher, [[0] * 5] * 3)
    assert after(batcher, gate, large, small) == [[5], [5], [5], [50, 50], [50, 50]]


def test_a_large_request_has_its_turn_while_small_ones_keep_coming(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(1, cut_tokens=1))
    occupy(batcher, gate)
    large = submit_bulk(batcher, [[0] * 50] * 2)
    small = submit(batcher, [[0] * 5] * (4 * BULK_TURN))
    order = [length for (length,) in after(batcher, gate, large, small)]
    turns = [place for place, length in enumerate(order) if length == 50]
    assert len(turns) == 2
    assert max(turns[0], turns[1] - turns[0]) <= BULK_TURN + 1


def test_large_requests_take_turns(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(1, cut_tokens=1))
    occupy(batcher, gate)
    first = submit_bulk(batcher, [[0] * 10] * 3)
    second = submit_bulk(batcher, [[0] * 20] * 3)
    assert after(batcher, gate, first, second) == [[10], [20]] * 3


def test_the_parts_of_one_large_request_are_executed_in_order(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(1, cut_tokens=1))
    occupy(batcher, gate)
    jobs = [submit_bulk(batcher, [[0] * length] * 2, owner="a") for length in (3, 9)]
    other = submit_bulk(batcher, [[0] * 20], owner="b")
    assert after(batcher, gate, *jobs, other) == [[3], [20], [3], [9], [9]]


# What is refused or dropped


def test_more_tokens_than_may_wait_are_refused_with_the_time_to_come_back(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8), max_tokens=10)
    occupy(batcher, gate)
    waiting = submit(batcher, [[0] * 6])
    with pytest.raises(Overloaded, match="6 tokens wait") as raised:
        submit(batcher, [[0] * 5])
    assert raised.value.retry_after is not None
    assert raised.value.retry_after >= 1
    after(batcher, gate, waiting)
    assert submit(batcher, [[2, 3]]).results() == [5]


def test_a_text_that_is_longer_than_may_wait_is_executed_where_nothing_waits(gate: Gate) -> None:
    gate.open.set()
    assert submit(
        Batcher(gate, streams=1, batching=Padded(8), max_tokens=3), [[1] * 9]
    ).results() == [9]


def test_what_cannot_be_executed_by_its_deadline_is_refused_at_once() -> None:
    def slow(batch: Batch) -> list[int]:
        time.sleep(0.1)
        return sums(batch)

    batcher = Batcher(slow, streams=1, batching=Padded(1))
    submit(batcher, [[0] * 10]).results()  # 100 tokens a second, as is known now
    waiting = submit(batcher, [[0] * 10] * 20)
    with pytest.raises(Overloaded, match=r"about \d+ s of work"):
        submit(batcher, [[0] * 10], deadline=time.monotonic() + 0.2)
    submit(batcher, [[0] * 10], deadline=time.monotonic() + 600).cancelled = True
    waiting.cancelled = True


def test_what_a_lone_text_takes_says_nothing_of_many() -> None:
    def slow(batch: Batch) -> list[int]:
        time.sleep(0.1)
        return sums(batch)

    batcher = Batcher(slow, streams=1, batching=Padded(64))
    submit(batcher, [[0]]).results()  # one token in 0.1 s
    jobs = [submit(batcher, [[1]] * 64, time.monotonic() + 60) for _ in range(20)]
    assert [job.results() for job in jobs] == [[1] * 64] * 20


def test_small_requests_are_not_refused_for_what_waits_of_large_ones(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8, cut_tokens=8), max_tokens=100)
    occupy(batcher, gate)
    large = submit_bulk(batcher, [[0] * 90])
    small = submit(batcher, [[0] * 20])
    with pytest.raises(Overloaded):
        submit_bulk(batcher, [[0] * 20])
    assert after(batcher, gate, large, small) == [[20], [90]]


def test_a_large_request_that_was_admitted_is_not_refused_midway(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8), max_tokens=10)
    occupy(batcher, gate)
    jobs = [Job[int]([[1] * 9]) for _ in range(3)]
    batcher.submit_bulk(jobs[0], "owner")
    batcher.submit_bulk(jobs[1], "owner", admitted=True)
    batcher.submit(jobs[2], admitted=True)
    gate.open.set()
    assert [job.results() for job in jobs] == [[9]] * 3


def test_what_had_no_turn_by_its_deadline_is_too_late(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8))
    occupy(batcher, gate)
    late = submit(batcher, [[0] * 7], deadline=time.monotonic() + 0.05)
    fine = submit(batcher, [[1] * 8])
    time.sleep(0.1)
    gate.open.set()
    with pytest.raises(TooLate):
        late.results()
    assert fine.results() == [8]
    assert 7 not in chain.from_iterable(gate.batches)


def test_a_cancelled_job_is_dropped(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(1, cut_tokens=1))
    occupy(batcher, gate)
    gone = [submit(batcher, [[0] * 7]), submit_bulk(batcher, [[0] * 7])]
    for job in gone:
        job.cancelled = True
    assert after(batcher, gate, submit(batcher, [[0] * 8]), submit_bulk(batcher, [[0] * 9])) == [
        [8],
        [9],
    ]
    assert batcher.waiting_tokens == 0


# Failures


def failing_at(number: int) -> Batcher[int]:
    def run(batch: Batch) -> list[int]:
        if any(number in text for text in batch):
            raise RuntimeError(f"{number} is too much")
        return sums(batch)

    return Batcher(run, streams=1, batching=Padded(8), proof=[1])


def test_a_failing_text_fails_alone_and_others_of_its_batch_are_answered() -> None:
    batcher = failing_at(13)
    with batcher._changed:  # so that they wait together
        jobs = [submit(batcher, [[number]]) for number in range(10, 16)]
    for number, job in zip(range(10, 16), jobs, strict=True):
        if number == 13:
            with pytest.raises(RuntimeError, match="13 is too much"):
                job.results()
        else:
            assert job.results() == [number]
    assert not batcher.broken


def test_a_request_with_a_failing_text_fails_and_later_ones_are_served() -> None:
    batcher = failing_at(13)
    job = submit(batcher, [[1], [13], [2]])
    with pytest.raises(RuntimeError, match="13"):
        job.results()
    assert submit(batcher, [[1, 2]]).results() == [3]


def test_an_engine_that_fails_at_the_proof_text_is_broken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batcher = failing_at(1)  # which the proof text has
    with pytest.raises(RuntimeError):
        submit(batcher, [[1]]).results()
    wait_until(lambda: batcher.broken)
    assert "the engine is broken" in caplog.text
    assert "RuntimeError: 1 is too much" in caplog.text


def test_a_batch_that_fails_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    batcher = failing_at(13)
    with batcher._changed, caplog.at_level(logging.WARNING):
        jobs = [submit(batcher, [[13]]), submit(batcher, [[1]])]
    assert jobs[1].results() == [1]
    assert "a batch of 2 texts failed (13 is too much)" in caplog.text


@pytest.mark.parametrize("results", [[1], [1, 2, 3], []])
def test_a_wrong_number_of_results_is_an_error_and_not_a_hang(results: list[int]) -> None:
    batcher = Batcher(lambda batch: results, streams=1, batching=Padded(8))
    job = submit(batcher, [[1], [2]])
    if len(results) == 1:  # right for each text alone
        assert job.results() == [1, 1]
    else:
        with pytest.raises(ValueError, match="zip"):
            job.results()


def test_what_waits_fails_at_the_end_and_what_is_executed_is_answered(gate: Gate) -> None:
    batcher = Batcher(gate, streams=1, batching=Padded(8, cut_tokens=8))
    running = occupy(batcher, gate)
    waiting = [submit(batcher, [[1]]), submit_bulk(batcher, [[1]])]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    for job in waiting:
        assert job.wait(60)
        with pytest.raises(NotReady, match="unloaded"):
            job.results()
    assert closing.is_alive()  # while a batch is in hand
    gate.open.set()
    closing.join()
    assert running.results() == [0]
    with pytest.raises(NotReady, match="unloaded"):
        submit(batcher, [[1]])


def test_the_streams_end_with_the_batcher() -> None:
    before = set(threading.enumerate())
    batcher = Batcher(sums, streams=3, batching=Padded(8))
    streams = set(threading.enumerate()) - before
    assert len(streams) == 3
    batcher.close()
    for stream in streams:
        stream.join(60)
    assert not any(stream.is_alive() for stream in streams)


class LateBatcher(Batcher[int]):
    """Its turns begin a moment before they take a batch."""

    def _next_batch(self) -> list:  # type: ignore[type-arg]
        time.sleep(0.1)
        return super()._next_batch()


def test_what_comes_while_a_turn_begins_does_not_start_before_it_came() -> None:
    batcher = LateBatcher(sums, streams=1, batching=Padded(8))
    first = submit(batcher, [[1]])
    time.sleep(0.05)
    second = submit(batcher, [[2]])
    assert (first.results(), second.results()) == ([1], [2])
    assert second.submitted <= second.started <= second.finished
