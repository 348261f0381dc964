"""Turns: one thread at a time, and none that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from serve import turns
from serve.turns import aside, in_turn


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def in_its_turn(function: Callable[[], object]) -> None:
    with in_turn():
        function()


def comes_within(seconds: float, done: Future[None]) -> bool:
    try:
        done.result(timeout=seconds)
    except TimeoutError:
        return False
    return True


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 30)


@pytest.mark.usefixtures("patient")
def test_one_thread_at_a_time_has_the_turn(threads: ThreadPoolExecutor) -> None:
    with in_turn():
        other = threads.submit(in_its_turn, lambda: None)
        assert not comes_within(0.2, other)
    assert comes_within(10, other)


@pytest.mark.usefixtures("patient")
def test_another_thread_has_the_turn_while_one_waits_aside(threads: ThreadPoolExecutor) -> None:
    with in_turn():
        with aside():
            assert comes_within(10, threads.submit(in_its_turn, lambda: None))
        assert not comes_within(0.2, other := threads.submit(in_its_turn, lambda: None))
    assert comes_within(10, other)


@pytest.mark.usefixtures("patient")
def test_the_turn_passes_on_after_an_error(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="aside"), in_turn(), aside():
        raise ValueError("aside")
    assert comes_within(10, threads.submit(in_its_turn, lambda: None))


def test_who_has_waited_long_goes_on_without_a_turn(threads: ThreadPoolExecutor) -> None:
    with in_turn():
        assert comes_within(10, threads.submit(in_its_turn, lambda: None))


def test_who_went_on_without_a_turn_takes_it_from_nobody(threads: ThreadPoolExecutor) -> None:
    ended = threading.Event()
    with in_turn():
        without = threads.submit(in_its_turn, ended.wait)
        time.sleep(2 * turns.PATIENCE)
    with in_turn():
        ended.set()
        without.result(timeout=10)
        assert turns._turn.locked()


def test_aside_is_allowed_without_a_turn() -> None:
    with aside():
        pass
    assert not turns._turn.locked()
