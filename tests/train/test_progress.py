from __future__ import annotations

import logging

import pytest

from train.progress import INTERVAL, progress

log = logging.getLogger(__name__)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("train.progress.time.monotonic", clock)
    return clock


def test_a_line_is_written_at_most_every_few_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = progress(log, "embedding")
    for second in range(1, 26):
        clock.now += 1
        report(second, 100)
    assert caplog.messages == [
        "embedding: 10 of 100 (1 a second, 90 s left)",
        "embedding: 20 of 100 (1 a second, 80 s left)",
    ]


def test_the_end_is_told_at_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = progress(log, "embedding")
    clock.now += 2
    report(100, 100)
    assert caplog.messages == ["embedding: 100 of 100 (50 a second, 0 s left)"]


def test_unknown_total_has_no_remaining_time(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = progress(log, "reading train", unit="rows")
    clock.now += INTERVAL
    report(5000)
    assert caplog.messages == ["reading train: 5000 rows (500 a second)"]


def test_bytes_are_told_in_megabytes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    report = progress(log, "reading train", unit="MB")
    clock.now += INTERVAL
    report(50_000_000, 100_000_000)
    assert caplog.messages == ["reading train: 50 of 100 MB (5 a second, 10 s left)"]


def test_what_an_earlier_attempt_did_does_not_count_as_fast(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = progress(log, "steps", before=900)
    clock.now += INTERVAL
    report(910, 1000)
    assert caplog.messages == ["steps: 910 of 1000 (1 a second, 90 s left)"]


def test_nothing_done_yet_is_told_without_a_guess(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = progress(log, "steps")
    clock.now += INTERVAL
    report(0, 1000)
    assert caplog.messages == ["steps: 0 of 1000 (0 a second)"]


def test_slow_progress_is_told_in_three_digits(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = progress(log, "steps")
    clock.now += 64
    report(27, 1000)
    assert caplog.messages == ["steps: 27 of 1000 (0.422 a second, 2306 s left)"]
