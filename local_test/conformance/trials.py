"""Find which of several demands a program cannot stand, in one attempt where it stands all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Trials", "search"]

T = TypeVar("T")


@dataclass(frozen=True)
class Trials(Generic[T]):
    """What came of the attempts."""

    best: T
    """The attempt with the most demands that went well; else the one without any."""
    works: bool
    """Whether `best` went well."""
    kept: frozenset[str]
    """The demands of `best`."""
    broken: dict[str, T]
    """By demand, the attempt that failed for it."""


def search(
    demands: Sequence[str],
    attempt: Callable[[frozenset[str]], T],
    fine: Callable[[T], bool],
) -> Trials[T]:
    """Try all demands together, and if that fails none, then one more at a time."""
    everything = frozenset(demands)
    best = attempt(everything)
    if fine(best) or not demands:
        return Trials(best, fine(best), everything, {})
    best, kept = attempt(frozenset()), frozenset[str]()
    if not fine(best):
        return Trials(best, False, kept, {})
    broken = {}
    for demand in demands:
        tried = attempt(kept | {demand})
        if fine(tried):
            best, kept = tried, kept | {demand}
        else:
            broken[demand] = tried
    return Trials(best, True, kept, broken)
