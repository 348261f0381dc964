from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from train.errors import UserError
from train.job import Job
from train.models import BAKED_IN, find_encoder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for a network that swallows every packet: a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield


@pytest.mark.parametrize("name", BAKED_IN)
def test_encoder_in_the_image_needs_no_network(name: str, job: Job) -> None:
    assert (find_encoder(name, job) / "model.safetensors").is_file()


def test_encoder_may_be_a_channel(job: Job, tiny_encoder: Path) -> None:
    channel = job.root / "input/data/encoder"
    shutil.copytree(tiny_encoder, channel)
    assert find_encoder("encoder", job) == channel


def test_channel_wins_over_the_encoder_of_the_image(job: Job, tiny_encoder: Path) -> None:
    channel = job.root / "input/data" / BAKED_IN[0]
    shutil.copytree(tiny_encoder, channel)
    assert find_encoder(BAKED_IN[0], job) == channel


def test_encoder_may_be_a_directory(job: Job, tiny_encoder: Path) -> None:
    assert find_encoder(str(tiny_encoder), job) == tiny_encoder


def test_channel_that_is_no_model_is_refused_with_what_it_holds(job: Job) -> None:
    channel = job.root / "input/data/encoder"
    channel.mkdir(parents=True)
    (channel / "model.tar.gz").touch()
    with pytest.raises(UserError, match=r"no config\.json \(found: model\.tar\.gz\).*unpacked"):
        find_encoder("encoder", job)


def test_hub_that_may_not_be_asked_is_told_at_once(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model_name=some/model is no directory, no channel.*"):
        find_encoder("some/model", job)


@pytest.mark.usefixtures("silent_hub")
def test_hub_that_does_not_answer_is_told_soon(job: Job) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="pass the model directory as a channel"):
        find_encoder("some/model", job)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("name", ["not a/valid/name", "../up", "a" * 200])
def test_name_that_cannot_be_a_model_is_refused(
    name: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model_name="):
        find_encoder(name, job)
