"""A variable that no log should hold, which jobs and servers are given."""

from __future__ import annotations

from collections.abc import Sequence

from local_test.conformance.rules import Broken

__all__ = ["SECRET", "keeps_secret"]

SECRET = {"CONFORM_SECRET_TOKEN": "hf_conformConformConformConformConf"}


def keeps_secret(lines: Sequence[str]) -> str:
    """Return how many lines of a log were looked at.

    Raises:
        Broken: one of them holds the value.
    """
    found = [line for line in lines if any(value in line for value in SECRET.values())]
    if found:
        raise Broken(f"in the log: {found[0][:200]}")
    return f"not in {len(lines)} lines"
