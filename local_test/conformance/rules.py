"""What a rule is: a function that looks at a subject, and says what it saw or what is broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from local_test.conformance.results import Result, Verdict

if TYPE_CHECKING:
    from local_test.conformance.subject import Subject

__all__ = ["RULES", "Broken", "Needs", "NotApplicable", "Rule", "chosen", "judge", "rule"]


class Needs(Enum):
    """What a rule needs to look at, in the order in which it is had."""

    IMAGE = "the image"
    TRAINING = "training jobs"
    START = "a server that comes up"
    SERVER = "a server that answers"
    STOPPED = "a server that is stopped"
    FURTHER = "further servers"


class Broken(Exception):
    """The rule is not kept; the message says what was seen."""


class NotApplicable(Exception):
    """The rule says nothing about this image; the message says why."""


@dataclass(frozen=True)
class Rule:
    """A rule of the contract between Amazon SageMaker and an image."""

    id: str
    needs: Needs
    text: str
    """The rule in one sentence."""
    advice: str
    """What to change in an image that breaks it."""
    source: str
    """Page of AWS's documentation and its topic, or where users reported it."""
    contained: bool
    """Whether it can be looked at in a container alone."""
    check: Callable[[Subject], str]
    """Returns what was seen; raises `Broken` or `NotApplicable`."""


RULES: list[Rule] = []


def rule(
    needs: Needs, *, advice: str, source: str, contained: bool = False
) -> Callable[[Callable[[Subject], str]], Callable[[Subject], str]]:
    """Register a function: its name is the rule's id, its docstring the rule."""

    def register(check: Callable[[Subject], str]) -> Callable[[Subject], str]:
        text = " ".join((check.__doc__ or "").split())
        name, alone = check.__name__.replace("_", "-"), contained or needs is Needs.IMAGE
        RULES.append(Rule(name, needs, text, advice, source, alone, check))
        return check

    return register


def chosen(only: Sequence[str], without: Sequence[str]) -> list[Rule]:
    """Return the rules whose ids match, in the order in which their subjects are had.

    Raises:
        LookupError: a pattern matches no rule; its message is the pattern.
    """
    for pattern in (*only, *without):
        if not any(fnmatchcase(one.id, pattern) for one in RULES):
            raise LookupError(pattern)
    found = [
        one
        for one in RULES
        if any(fnmatchcase(one.id, pattern) for pattern in only or ["*"])
        and not any(fnmatchcase(one.id, pattern) for pattern in without)
    ]
    return sorted(found, key=lambda one: list(Needs).index(one.needs))


def judge(one: Rule, subject: Subject) -> Result:
    """Return what comes of a rule."""
    started = time.monotonic()
    try:
        if one.contained and subject.bare:
            raise NotApplicable("a bare program is not held to it")
        verdict, seen = Verdict.PASSED, one.check(subject)
    except Broken as broken:
        verdict, seen = Verdict.FAILED, str(broken)
    except NotApplicable as why:
        verdict, seen = Verdict.NOT_APPLICABLE, str(why)
    return Result(one.id, one.needs.value, one.text, verdict, " ".join(seen.split()), one.advice,
                  one.source, round(time.monotonic() - started, 2))  # fmt: skip
