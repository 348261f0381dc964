"""Ids of requests, to find one in the log by."""

from __future__ import annotations

import os
from random import Random

__all__ = ["new_id"]

# Not os.urandom, which gives Python's lock away, and not the generator that users' code may seed.
_random = Random()
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return 12 hexadecimal digits."""
    return f"{_random.getrandbits(48):012x}"
