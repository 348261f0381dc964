from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from serve.batcher import Batcher, Job
from serve.streams import Streams, shared_streams
from textmodel.batching import Padded


class Gate:
    """A model that notes that it was asked, and works only while it is open."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order
        self.open, self.entered = threading.Event(), threading.Event()

    def __call__(self, batch: object) -> list[str]:
        self.order.append(self.name)
        self.entered.set()
        assert self.open.wait(60)
        return [self.name]


def of_one_text(run: Gate, threads: Streams) -> Batcher[str]:
    return Batcher(run, streams=1, batching=Padded(1), threads=threads)


def test_of_several_models_each_has_its_turn() -> None:
    order: list[str] = []
    threads = Streams(1)
    busy, other = Gate("busy", order), Gate("other", order)
    jobs: list[Job[str]] = [Job([[0]]) for _ in range(4)]
    batcher = of_one_text(busy, threads)
    for job in jobs[:3]:
        batcher.submit(job)
    assert busy.entered.wait(60)
    of_one_text(other, threads).submit(jobs[3])
    for gate in (busy, other):
        gate.open.set()
    assert [job.results() for job in jobs] == [["busy"]] * 3 + [["other"]]
    assert order.index("other") == 1
    threads.close()


def test_closing_waits_for_the_batch_in_hand_and_fails_what_waits() -> None:
    threads = Streams(1)
    gate = Gate("a", [])
    batcher = of_one_text(gate, threads)
    in_hand, waiting = Job[str]([[0]]), Job[str]([[0]])
    batcher.submit(in_hand)
    assert gate.entered.wait(60)
    batcher.submit(waiting)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(Exception, match="unloaded"):
        waiting.results()
    assert closing.is_alive()
    gate.open.set()
    closing.join(60)
    assert not closing.is_alive()
    assert in_hand.results() == ["a"]
    threads.close()


def test_a_fault_in_a_turn_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    threads, done = Streams(1), threading.Event()
    threads.submit(broken)
    threads.submit(done.set)
    assert done.wait(60)
    assert "RuntimeError: secret" in caplog.text
    threads.close()


def test_a_turn_is_called_in_place_where_nothing_else_is_to_be_called() -> None:
    threads, callers = Streams(1), SimpleQueue[str]()
    hold, held = threading.Event(), threading.Event()

    def note() -> None:
        callers.put(threading.current_thread().name)

    def occupy() -> None:
        held.set()
        assert hold.wait(60)

    threads.run(note)
    assert callers.get(timeout=60) == threading.current_thread().name
    threads.submit(occupy)
    assert held.wait(60)
    threads.run(note)
    hold.set()
    assert callers.get(timeout=60) == "stream-0"
    threads.close()


def test_a_fault_in_a_turn_that_is_called_in_place_does_not_reach_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    threads, called = Streams(1), threading.Event()
    threads.run(broken)
    assert "RuntimeError: secret" in caplog.text
    threads.run(called.set)
    assert called.is_set()
    threads.close()


def test_all_models_of_a_process_have_the_same_streams() -> None:
    assert shared_streams() is shared_streams()
