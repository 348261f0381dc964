from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.textmodel.encoders import make_encoder
from tests.train.reading import Reader


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """Give back the signal handlers that a job in this process takes."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def all_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random BERT with which a job takes no time."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Return what reads channels that a test writes."""
    return Reader(tmp_path)
