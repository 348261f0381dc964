"""What is measured of a process, in one where nothing of other tests is left or at work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["alone"]

T = TypeVar("T")


def alone(function: Callable[..., T], *arguments: object) -> T:
    """Return what a function of a module returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()
