from __future__ import annotations

import ctypes
import errno
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from serve.memory import (
    HIGHEST_FACTOR,
    MARGIN,
    Appetite,
    give_back,
    is_shortage,
    resident,
    share_arenas,
)

MB = 2**20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/weights").write_bytes(b"0" * MB)
    return tmp_path


def test_the_first_model_is_expected_to_take_what_its_files_take(model: Path) -> None:
    assert Appetite().of(model) == MARGIN + MB


@pytest.mark.parametrize(("taken", "factor"), [(3 * MB, 3), (0, 1), (-MB, 1), (2**40, 4)])
def test_the_next_one_is_expected_to_take_as_much_within_bounds(
    model: Path, taken: int, factor: int
) -> None:
    appetite = Appetite()
    appetite.learn(model, taken)
    assert appetite.of(model) == MARGIN + factor * MB
    assert HIGHEST_FACTOR == 4


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
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        grown, left = process.submit(growth).result()
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
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(arenas, 2, tmp_path / "listing").result() == expected


@pytest.mark.parametrize(
    ("error", "shortage"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "no memory"), True),
        (RuntimeError("Exception from core.cpp:132:\nstd::bad_alloc\n"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("shape mismatch"), False),
        (FileNotFoundError(errno.ENOENT, "out of memory.bin"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_shortage_is_told_from_other_errors(error: Exception, shortage: bool) -> None:
    assert is_shortage(error) is shortage


def test_the_cause_of_an_error_counts() -> None:
    outer = ValueError("the model is incomplete")
    outer.__cause__ = MemoryError()
    assert is_shortage(outer)
