"""Find which of several demands a program cannot stand, in one attempt where it stands all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from local_test.conformance.rules import Broken, NotApplicable

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

    def stood(self, demand: str, otherwise: str) -> str:
        """Return what was seen of the best attempt, which stood a demand.

        Args:
            demand: one of those that were tried.
            otherwise: what to say where not even an attempt without demands went well.

        Raises:
            Broken: it was for this demand that an attempt failed.
            NotApplicable: none went well.
        """
        if not self.works:
            raise NotApplicable(otherwise)
        if demand in self.broken:
            raise Broken(str(self.broken[demand]))
        return str(self.best)


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
