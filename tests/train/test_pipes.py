from __future__ import annotations

import gzip
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.train.reading import GOOD, Reader, ones
from tests.train.trees import as_csv, messages
from train import pipes
from train.data import Dataset, Splits
from train.errors import Stopped, UserError
from train.stopping import Stop

LINES = '{"text": "fire", "label": 1}\n{"text": "fine", "label": 0}\n'


@contextmanager
def sending(root: Path, after: float = 0, **channels: str | bytes) -> Iterator[None]:
    """Make a channel's fifo some time from now and write to it, as the platform does."""
    data = root / "input/data"
    data.mkdir(parents=True, exist_ok=True)

    def send(name: str, content: bytes) -> None:
        time.sleep(after)
        os.mkfifo(data / f"{name}_0")
        with (data / f"{name}_0").open("wb") as fifo:
            fifo.write(content)

    threads = [
        threading.Thread(target=send, args=(name, text.encode() if isinstance(text, str) else text))
        for name, text in channels.items()
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def piped(read: Reader, after: float = 0, **channels: str | bytes) -> Splits:
    inputs = {name: {"TrainingInputMode": "Pipe"} for name in channels}
    with sending(read.root, after, **channels):
        return read.splits({}, inputs=inputs)


def refused(read: Reader, content: str | bytes, **declared: str) -> str:
    inputs = {"train": {"TrainingInputMode": "Pipe"} | declared}
    with sending(read.root, train=content), pytest.raises(UserError) as caught:
        read.splits({}, inputs=inputs)
    return str(caught.value)


@pytest.mark.parametrize("content", [LINES, "\n" + LINES, "text,label\nfire,1\nfine,0\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_format_and_compression_are_found_in_what_comes(
    read: Reader, content: str, zipped: bool
) -> None:
    data = gzip.compress(content.encode()) if zipped else content
    assert piped(read, train=data, test=data).train == Dataset(["fire", "fine"], ones("1", "0"))


@pytest.mark.parametrize(
    ("declared", "content"),
    [
        ("text/csv", "{text,label\nfire,1\nfine,0\n"),
        ("text/tab-separated-values", "{text\tlabel\nfire\t1\nfine\t0\n"),
        ("application/jsonlines", '{"{text": "fire", "label": 1}\n{"{text": "fine", "label": 0}'),
    ],
)
def test_declared_content_type_wins_over_the_first_character(
    read: Reader, declared: str, content: str
) -> None:
    inputs = {
        name: {"TrainingInputMode": "Pipe", "ContentType": declared} for name in ("train", "test")
    }
    with sending(read.root, train=content, test=content):
        splits = read.splits({}, inputs=inputs, text_column="{text")
    assert splits.train.texts == ["fire", "fine"]


def test_all_rows_of_all_channels_come_through(read: Reader) -> None:
    rows, test = messages(0, 400), messages(400, 450)
    splits = piped(read, train=as_csv(rows), validation=as_csv(test), test=as_csv(test))
    assert splits.train.texts == [text for text, _ in rows]
    assert [len(data) for data in splits.held_out.values()] == [50, 50]


def test_rows_are_held_out_of_a_pipe_too(read: Reader) -> None:
    splits = piped(read, train=as_csv(messages(0, 100)))
    assert len(splits.train) + len(splits.held_out["validation"]) == 100


def test_header_of_each_file_that_comes_through_a_pipe_is_one(read: Reader) -> None:
    content = (GOOD + "\ufeff" + GOOD).encode("utf-8-sig")
    assert len(piped(read, train=content, test=content).train) == 8


def test_pipe_that_the_platform_makes_late_is_waited_for(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(piped(read, after=0.3, train=LINES, test=LINES).train) == 2
    assert "train_0 does not exist yet" in caplog.text


def test_pipe_that_never_comes_is_refused(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"train_0 does not exist yet, after .* S3Uri"):
        read.splits({}, inputs={"train": {"TrainingInputMode": "Pipe"}})


def test_pipe_that_nobody_writes_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "PATIENCE", 0.1)
    os.mkfifo(tmp_path / "train_0")
    with pytest.raises(UserError, match="train_0 sends nothing yet"):
        pipes.open_pipe(tmp_path / "train_0")


def test_wait_is_told_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipes, "PATIENCE", 0.5)
    monkeypatch.setattr(pipes, "INTERVAL", 0.1)
    with pytest.raises(UserError):
        pipes.open_pipe(tmp_path / "train_0")
    assert 3 <= caplog.text.count("waiting: the pipe") <= 6


@pytest.mark.parametrize("made", [False, True])
def test_stop_ends_the_wait(tmp_path: Path, made: bool) -> None:
    if made:
        os.mkfifo(tmp_path / "train_0")
    stop = Stop()
    stop.listen()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped):
        pipes.open_pipe(tmp_path / "train_0")


@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n"])
def test_pipe_without_rows_is_an_empty_channel(read: Reader, content: str) -> None:
    assert refused(read, content).startswith("the channel train is empty: its pipe has no row")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + "{", "train_0 line 3: not valid JSON"),
        ("text,label\nf\xfcr,1\n".encode("latin-1"), "train_0 line 2: byte 0xfc is not utf-8"),
        (gzip.compress(GOOD.encode())[:-5], "train_0 line "),
        ("[" + LINES, "train_0 line 1: not valid JSON"),
    ],
)
def test_broken_content_is_refused_with_its_line(
    read: Reader, content: str | bytes, message: str
) -> None:
    assert refused(read, content).startswith(message)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"RecordWrapperType": "RecordIO"}, "RecordIO, which is not read here; set it to None"),
        ({"ContentType": "application/x-parquet"}, "set its input mode to File or FastFile"),
    ],
)
def test_what_cannot_come_through_a_pipe_is_refused(
    read: Reader, declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read.splits({}, inputs={"train": {"TrainingInputMode": "Pipe"} | declared})
