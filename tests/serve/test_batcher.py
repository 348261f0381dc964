from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.batcher import WINDOW, Batcher

Batch = Sequence[Sequence[int]]


class Gate:
    """A model that records its batches and works only while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, batch: Batch) -> list[int]:
        self.batches.append([len(token_ids) for token_ids in batch])
        self.entered.release()
        self.open.wait(10)
        return [sum(token_ids) for token_ids in batch]


def test_many_clients_each_get_their_own_answer() -> None:
    batcher = Batcher(lambda batch: [sum(ids) for ids in batch], streams=4, batch_size=8)

    def ask(number: int) -> bool:
        texts = [[number, position] for position in range(number % 5 + 1)]
        return [future.result() for future in batcher.submit(texts)] == [sum(t) for t in texts]

    with ThreadPoolExecutor(32) as clients:
        assert all(clients.map(ask, range(2000)))


def test_a_lone_text_runs_at_once_and_alone() -> None:
    gate = Gate()
    gate.open.set()
    (future,) = Batcher(gate, streams=2, batch_size=8).submit([[1, 2, 3]])
    assert future.result(10) == 6
    assert gate.batches == [[3]]


def test_texts_of_like_length_run_together() -> None:
    gate = Gate()
    batcher = Batcher(gate, streams=1, batch_size=3)
    futures = batcher.submit([[0]])
    assert gate.entered.acquire(timeout=10)
    futures += batcher.submit([[0] * length for length in (50, 4, 5, 51, 49, 6)])
    gate.open.set()
    for future in futures:
        future.result(10)
    assert [sorted(batch) for batch in gate.batches] == [[1], [49, 50, 51], [4, 5, 6]]


def test_the_longest_waiting_text_is_in_the_next_batch_however_odd_its_length() -> None:
    gate = Gate()
    batcher = Batcher(gate, streams=1, batch_size=4)
    futures = batcher.submit([[0]])
    assert gate.entered.acquire(timeout=10)
    futures += batcher.submit([[0] * 500, *([0] * 5 for _ in range(WINDOW * 2))])
    gate.open.set()
    for future in futures:
        future.result(10)
    assert 500 in gate.batches[1]


def test_what_waits_is_shared_out_to_all_streams() -> None:
    gate = Gate()
    futures = Batcher(gate, streams=2, batch_size=8).submit([[1]] * 8)
    assert gate.entered.acquire(timeout=10)
    assert gate.entered.acquire(timeout=10)
    assert gate.batches[0] == [1] * 4
    gate.open.set()
    assert [future.result(10) for future in futures] == [1] * 8


def test_a_failing_batch_tells_its_clients_and_later_ones_are_served() -> None:
    def run(batch: Batch) -> list[int]:
        if [13] in batch:
            raise RuntimeError("broken")
        return [sum(ids) for ids in batch]

    batcher = Batcher(run, streams=1, batch_size=8)
    (failing,) = batcher.submit([[13]])
    with pytest.raises(RuntimeError, match="broken"):
        failing.result(10)
    (fine,) = batcher.submit([[1, 2]])
    assert fine.result(10) == 3


def test_too_few_results_are_an_error_and_not_a_hang() -> None:
    (first, second) = Batcher(lambda batch: [1], streams=1, batch_size=8).submit([[1], [2]])
    assert first.result(10) == 1
    with pytest.raises(ValueError, match="shorter"):
        second.result(10)
