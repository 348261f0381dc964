"""What `bench.serve` and `bench.soak` are made of."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench/serving"
"""Environments, models and logs; made on first use, ignored by git."""


class Unavailable(Exception):
    """A contender cannot be measured. The message says why."""
