from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from textmodel.priority import call_at, niceness

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


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        call_at(19, lambda: 1 // 0)
