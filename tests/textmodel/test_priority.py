from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from textmodel.priority import FARTHEST, call_at, niceness

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a niceness of their own on Linux"
)


def niceness_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(niceness).result()


def test_what_is_called_and_what_it_starts_stand_back_and_the_caller_does_not() -> None:
    before = niceness()
    assert call_at(before + 3, niceness) == before + 3
    assert call_at(before + 3, niceness_of_a_new_thread) == before + 3
    assert niceness() == before


def test_who_stands_back_already_comes_no_step_forward() -> None:
    before = niceness()
    assert call_at(before + 3, call_at, before, niceness) == before + 3


def policy() -> int:
    return os.sched_getscheduler(0)


def test_who_stands_back_interrupts_nobody_and_who_does_farthest_runs_while_no_others_want_to() -> (
    None
):
    before = policy()
    assert call_at(niceness() + 3, policy) == os.SCHED_BATCH
    assert call_at(FARTHEST, policy) == os.SCHED_IDLE
    assert policy() == before


def test_a_kernel_that_forbids_it_makes_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert call_at(FARTHEST, niceness) == FARTHEST


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        call_at(FARTHEST, lambda: 1 // 0)
