"""What this process holds of memory, and how little of what it has released."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

__all__ = ["give_back", "resident", "share_arenas"]

_M_ARENA_MAX = -8  # of malloc.h


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Return to the system what was released."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; it would keep most of it
    if trim is not None:
        trim(0)


def share_arenas(count: int) -> None:
    """Let all threads have so many of malloc's arenas, unless the user says how many.

    Each keeps much of what was once needed at the same time, and by default a core has eight.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, count)
