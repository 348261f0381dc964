"""What a request may wish of its answer, besides the texts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve.errors import BadRequest

__all__ = ["NAMES", "Parameters", "table"]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "top_k": ("a whole number from 1, or null for all", _is_count),
    "threshold": ("a number from 0 to 1", _is_score),
    "truncation": ("true or false", _is_flag),
    "return_embeddings": ("true or false", _is_flag),
    "return_logits": ("true or false", _is_flag),
    # What Hugging Face's pipelines had before top_k.
    "return_all_scores": ("true or false", _is_flag),
}


NAMES = frozenset(_CHECKS)


@dataclass(frozen=True)
class Parameters:
    """The wishes of one request, checked."""

    top_k: int | None = 0
    """How many labels, best first; None for all, 0 for what the task has by default."""
    threshold: float | None = None
    """The score from which on a label is in the answer."""
    truncation: bool = True
    """Whether a text that is too long is cut; else it is refused."""
    return_embeddings: bool = False
    return_logits: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Parameters:
        """Check what a client sent.

        Raises:
            BadRequest: a parameter is unknown or has a value that is not allowed.
        """
        if not values:
            return _NONE
        read: dict[str, Any] = {}
        for name, value in values.items():
            if name not in _CHECKS:
                near = difflib.get_close_matches(name, _CHECKS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_CHECKS)}"
                raise BadRequest(f"unknown parameter {name!r:.40}; {hint}")
            allowed, is_allowed = _CHECKS[name]
            if not is_allowed(value):
                raise BadRequest(f"parameter {name}={value!r:.40} must be {allowed}")
            read |= (
                {"top_k": None if value else 0} if name == "return_all_scores" else {name: value}
            )
        return cls(**read)


_NONE = Parameters()


def table() -> tuple[tuple[str, str], ...]:
    """Return every parameter and what it may be."""
    return tuple((name, allowed) for name, (allowed, _) in _CHECKS.items())
