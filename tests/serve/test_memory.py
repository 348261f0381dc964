from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serve.memory import HIGHEST_FACTOR, MARGIN, Appetite, is_shortage

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
