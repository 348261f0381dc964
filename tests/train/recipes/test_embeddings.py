"""What the recipes on frozen embeddings do with their texts before there is anything to fit."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.train.hosts import Host, finish
from tests.train.trees import as_csv, files_of, make_tree, messages
from textmodel import classifier
from textmodel.tokenizer import Text
from train.job import Job
from train.recipes import embeddings
from train.recipes.embeddings import EmbeddingTable
from train.stopping import Stop
from train.worker import run
from train.world import World

EMBEDDED_BEFORE = " windows were embedded before"


def head_of(root: Path, encoder: Path, recipe: str = "forest") -> dict[str, bytes]:
    """Fit a small job in this process; return the files of its head."""
    settings = {"recipe": recipe, "model_name": str(encoder), "n_estimators": "5"}
    data = {"train": as_csv(messages(0, 60)), "test": as_csv(messages(400, 420))}
    run(Job(make_tree(root, data, settings)), Stop(), World())
    return {path.name: path.read_bytes() for path in (root / "model/head").iterdir()}


def test_rows_of_equal_texts_share_one_embedding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(classifier, "WINDOW_TEXTS", 2)
    texts: list[Text] = ["c", "a", ("a", "b"), "a", "c", "b", "c", "b"]
    table = EmbeddingTable(texts, tmp_path)
    assert table.windows == [["c", "a"], [("a", "b"), "b"]]
    for number, window in reversed(list(enumerate(table.windows))):
        table.put(number, np.array([[len(text), ord(text[0])] for text in window], np.float32))
    assert table.features is not None
    assert table.features.tolist() == [[len(text), ord(text[0])] for text in texts]


def test_large_embeddings_lie_in_a_file_that_no_one_has_to_remove(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embeddings, "MAPPED", 0)
    features = embeddings._allocate((5, 3), tmp_path)
    features[:] = 7
    assert isinstance(features.base, np.memmap)
    assert features.shape == (5, 3)
    assert features.sum() == 105
    assert files_of(tmp_path) == set()


def test_full_disk_is_an_error_before_the_first_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embeddings, "MAPPED", 0)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        embeddings._allocate((2**40, 2**10), tmp_path)


@pytest.mark.parametrize("recipe", ["forest", "logistic"])
def test_where_the_embeddings_lie_does_not_change_the_model(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_encoder: Path
) -> None:
    in_memory = head_of(tmp_path / "memory", tiny_encoder, recipe)
    monkeypatch.setattr(embeddings, "MAPPED", 0)
    assert head_of(tmp_path / "file", tiny_encoder, recipe) == in_memory


def test_job_of_a_moment_writes_no_checkpoints(tmp_path: Path, tiny_encoder: Path) -> None:
    head_of(tmp_path, tiny_encoder)
    assert not list((tmp_path / "checkpoints").glob("*/*"))


def test_checkpoints_that_cannot_be_written_are_gone_without(
    tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    assert "forest.treelite" in head_of(tmp_path, tiny_encoder)
    assert "no checkpoints" in caplog.text


def test_tokens_of_cut_texts_are_counted_over_all_windows(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_encoder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(classifier, "WINDOW_CHARACTERS", 1000)
    rows = [["long " * 300, "a"], ["short", "b"], ["longer " * 300, "b"], ["short", "a"]]
    settings = {"recipe": "logistic", "model_name": str(tiny_encoder), "max_length": "100"}
    data = {"train": as_csv(rows), "test": as_csv([["t", "a"]])}
    run(Job(make_tree(tmp_path, data, settings)), Stop(), World())
    assert "2 of 3 texts are longer than max_length=100 tokens" in caplog.text


def test_interrupted_job_ends_with_the_model_of_an_uninterrupted_one(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    whole, interrupted = (
        Host(tmp_path / name, tiny_encoder, "forest", n_estimators="5")
        for name in ("whole", "interrupted")
    )
    assert finish(whole.start())[0] == 0
    windows = len(whole.kept)
    for number, (how, code) in {
        2: (signal.SIGKILL, -signal.SIGKILL),
        windows // 2: (signal.SIGTERM, 143),
    }.items():
        process = interrupted.start()
        interrupted.wait_for_checkpoints(number, process)
        process.send_signal(how)
        assert finish(process)[0] == code
        assert number <= len(interrupted.kept) < windows
        assert "optml.json" not in interrupted.model
    code, log = finish(interrupted.start())
    assert code == 0, log
    assert f" of {windows}{EMBEDDED_BEFORE}" in log
    assert interrupted.model == whole.model


def test_damaged_checkpoint_is_named_and_its_texts_are_embedded_again(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    host = Host(tmp_path, tiny_encoder, "forest", n_estimators="5")
    assert finish(host.start())[0] == 0
    model, windows, damaged = host.model, len(host.kept), host.kept[3]
    with (damaged / "embeddings.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    code, log = finish(host.start())
    assert code == 0, log
    assert f"checkpoint {damaged.name} is skipped: embeddings.npy has changed" in log
    assert f"{windows - 1} of {windows}{EMBEDDED_BEFORE}" in log
    assert "embedding: 19 of 19" in log
    assert host.model == model
