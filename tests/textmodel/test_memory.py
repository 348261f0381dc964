from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest

from tests.processes import alone
from textmodel.memory import give_back, resident, share_arenas

MB = 2**20


def growth() -> tuple[int, int]:
    """Return by how much memory grows with many blocks, and how much of that stays behind them."""
    before = resident()
    blocks = [bytes(b"0" * 50_000) for _ in range(2_000)]  # malloc keeps blocks of this size
    kept = bytes(b"0" * 50_000)
    grown = resident() - before
    blocks.clear()
    give_back()
    left = resident() - before
    assert kept
    return grown, left


def test_released_memory_is_given_back() -> None:
    # In a process of its own: in this one, blocks may lie where those of earlier tests lay.
    grown, left = alone(growth)
    assert grown > 80 * MB
    assert left < 20 * MB


def arenas(limit: int, listing: Path) -> int:
    """Return how many of malloc's arenas threads that allocate at the same time have."""
    share_arenas(limit)
    together = threading.Barrier(16)

    def allocate() -> None:
        together.wait()
        blocks = [bytes(50_000) for _ in range(100)]
        together.wait()
        assert blocks

    threads = [threading.Thread(target=allocate) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(bytes(listing), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return listing.read_text(encoding="ascii").count("<heap nr=")


@pytest.mark.parametrize(("of_user", "expected"), [("", 2), ("5", 5)])
def test_threads_share_arenas_unless_the_user_says_how_many(
    of_user: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if of_user:
        monkeypatch.setenv("MALLOC_ARENA_MAX", of_user)
    assert alone(arenas, 2, tmp_path / "listing") == expected
