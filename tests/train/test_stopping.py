from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import pytest

from train.errors import Stopped
from train.stopping import AGAIN, Stop


@pytest.fixture
def stop() -> Stop:
    stop = Stop()
    stop.listen()
    return stop


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def deferred(stop: Stop, *numbers: int) -> None:
    with stop.deferred():
        for number in numbers:
            send(number)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_first_signal_ends_the_work_at_once(stop: Stop, name: str) -> None:
    with pytest.raises(Stopped, match=name):
        send(signal.Signals[name])
    assert stop.requested == name


def test_first_signal_is_only_noted_where_the_work_winds_up(stop: Stop) -> None:
    deferred(stop, signal.SIGTERM)
    assert stop.requested == "SIGTERM"


def test_work_that_winds_up_within_other_such_work_still_only_notes_the_first_signal(
    stop: Stop,
) -> None:
    with stop.deferred():
        send(signal.SIGTERM)
        deferred(stop)
    assert stop.requested == "SIGTERM"


def test_signal_after_inner_work_that_wound_up_is_still_only_noted(stop: Stop) -> None:
    with stop.deferred():
        deferred(stop)
        send(signal.SIGTERM)
    assert stop.requested == "SIGTERM"


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_sigint_ends_the_work_that_winds_up(stop: Stop, first: int) -> None:
    with pytest.raises(Stopped, match="SIGINT"):
        deferred(stop, first, signal.SIGINT)


def test_second_sigterm_does_not_cut_short_the_work_that_winds_up(stop: Stop) -> None:
    deferred(stop, signal.SIGTERM, signal.SIGTERM)
    assert stop.requested == "SIGTERM"


def test_second_signal_ends_the_work_after_it_was_wound_up(stop: Stop) -> None:
    deferred(stop, signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGINT"):
        send(signal.SIGINT)


def test_exception_that_got_lost_is_raised_again(
    stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finalized:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: lost.append(info.exc_type))
    Finalized()
    assert lost == [Stopped]
    with pytest.raises(Stopped, match="SIGTERM"):
        time.sleep(10)


def test_signal_after_the_end_does_not_cut_short_the_tidying_up(stop: Stop) -> None:
    with pytest.raises(Stopped) as caught:
        send(signal.SIGTERM)
    send(signal.SIGTERM)
    send(signal.SIGINT)
    time.sleep(AGAIN + 0.2)
    assert caught.value is not None  # as long as it is on its way, no other follows


def test_signal_is_ignored_on_request(stop: Stop) -> None:
    stop.ignore()
    send(signal.SIGTERM)
    assert not stop.requested


def test_signal_that_a_library_swallowed_ends_the_work_before_it_winds_up(stop: Stop) -> None:
    with contextlib.suppress(BaseException):
        send(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        deferred(stop)


def test_no_library_takes_a_stop_for_an_error() -> None:
    assert not issubclass(Stopped, Exception)


def test_request_from_inside_raises_nothing_and_tells_its_reason(stop: Stop) -> None:
    stop.request("the loss is NaN")
    stop.request("another reason")
    with stop.deferred():
        assert stop.requested == "the loss is NaN"
    assert not stop.signal


def test_signal_after_a_request_is_still_only_noted_where_the_work_winds_up(stop: Stop) -> None:
    stop.request("the loss is NaN")
    deferred(stop, signal.SIGTERM)
    assert stop.requested == stop.signal == "SIGTERM"
