from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from train.checkpoints import Checkpoints


def checkpoints(root: Path, *numbers: int, identity: str = "job") -> Checkpoints:
    """Return checkpoints called `step` with these numbers, each with one file."""
    made = Checkpoints(root, identity)
    for number in numbers:
        with made.writing("step", number) as directory:
            (directory / "state").mkdir()
            (directory / "state/weights").write_text(f"weights {number}")
    return made


def test_another_attempt_of_the_job_finds_what_was_written(tmp_path: Path) -> None:
    checkpoints(tmp_path, 2, 10)
    found = Checkpoints(tmp_path, "job")
    assert found.numbers("step") == [2, 10]
    assert (found.path("step", 10) / "state/weights").read_text() == "weights 10"


def test_another_job_finds_nothing_and_is_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints(tmp_path, 1)
    with caplog.at_level(logging.INFO):
        assert Checkpoints(tmp_path, "other").numbers("step") == []
    assert "checkpoints of other data or settings are not used: job" in caplog.text


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "unsealed", "no JSON"])
def test_damaged_checkpoint_is_skipped_and_named(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = checkpoints(tmp_path, 1, 2)
    weights = made.path("step", 2) / "state/weights"
    seal = made.path("step", 2) / "sha256.json"
    damages: dict[str, Callable[[], object]] = {
        "changed": lambda: weights.write_text("weights 3"),
        "shortened": lambda: weights.write_text(""),
        "removed": weights.unlink,
        "unsealed": seal.unlink,
        "no JSON": lambda: seal.write_text("{"),
    }
    damages[damage]()
    assert made.numbers("step") == [1]
    assert "checkpoint step-000002 is skipped: " in caplog.text


def test_checkpoint_that_is_not_finished_does_not_count(tmp_path: Path) -> None:
    made = Checkpoints(tmp_path, "job")
    with suppress(KeyboardInterrupt), made.writing("step", 1) as directory:
        (directory / "weights").write_text("half")
        raise KeyboardInterrupt
    assert made.numbers("step") == []
    assert list(made.directory.iterdir()) == []


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    made = Checkpoints(tmp_path, "job")
    (made.directory / ".partial").mkdir()
    (made.directory / ".partial/weights").write_text("half")
    assert Checkpoints(tmp_path, "job").numbers("step") == []
    assert list(made.directory.iterdir()) == []


def test_checkpoint_of_the_same_number_replaces_the_old_one(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, 1)
    with made.writing("step", 1) as directory:
        (directory / "other").write_text("new")
    assert made.numbers("step") == [1]
    assert not (made.path("step", 1) / "state").exists()


def test_names_do_not_mix(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, 1)
    with made.writing("best", 7):
        pass
    assert made.numbers("step") == [1]
    assert made.numbers("best") == [7]
    made.remove("best", 7)
    assert made.numbers("best") == []


def test_place_that_cannot_be_written_turns_checkpoints_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    made = Checkpoints(tmp_path / "checkpoints", "job")
    assert not made.enabled
    assert made.numbers("step") == []
    assert "no checkpoints: " in caplog.text
