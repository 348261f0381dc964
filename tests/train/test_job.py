from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.trees import make_tree
from train.errors import UserError
from train.job import FAILURE_LIMIT, Channel, Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(make_tree(tmp_path, {"train": "text,label\n", "my.test-1": ""}, {"lr": "1"}))


def test_tree_is_opt_ml_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SAGEMAKER_BASE_DIR", raising=False)
    assert Job.from_environment().model == Path("/opt/ml/model")
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", "/elsewhere")
    assert Job.from_environment().failure == Path("/elsewhere/output/failure")


def test_hyperparameters_are_read_as_they_were_sent(job: Job) -> None:
    assert job.hyperparameters() == {"lr": "1"}


def test_missing_configuration_files_are_empty(tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job.hyperparameters() == {}
    assert job.resources() == {}


def test_configuration_with_a_byte_order_mark_is_read(job: Job) -> None:
    path = job.root / "input/config/hyperparameters.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert job.hyperparameters() == {"lr": "1"}


@pytest.mark.parametrize("text", ["", "{", "recipe: forest", "\x00"])
def test_configuration_that_is_no_json_is_refused_with_its_path(job: Job, text: str) -> None:
    (job.root / "input/config/hyperparameters.json").write_text(text)
    with pytest.raises(UserError, match=r"config/hyperparameters\.json is not JSON"):
        job.hyperparameters()


def test_configuration_that_is_no_object_is_refused(job: Job) -> None:
    (job.root / "input/config/hyperparameters.json").write_text("[1]")
    with pytest.raises(UserError, match="must hold a JSON object, not list"):
        job.hyperparameters()


def test_channel_is_the_first_of_its_names_that_exists(job: Job) -> None:
    assert job.channel("training", "train") == Channel("train", job.root / "input/data/train")
    assert job.channel("validation") is None


def test_channel_names_may_have_dots_and_hyphens(job: Job) -> None:
    assert job.channel_names() == ["my.test-1", "train"]
    assert job.channel("my.test-1") is not None


def test_job_without_input_has_no_channels(tmp_path: Path) -> None:
    assert Job(tmp_path).channel_names() == []


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"ContentType": "text/csv"}, {"content_type": "text/csv"}),
        ({"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}, {}),
        ({"TrainingInputMode": "FastFile", "RecordWrapperType": "None"}, {}),
        ({"S3DistributionType": "ShardedByS3Key"}, {"sharded": True}),
        ({"RecordWrapperType": "RecordIO"}, {"record_io": True}),
        (None, {}),
    ],
)
def test_channel_is_what_the_job_declares(
    tmp_path: Path, declared: object, expected: dict[str, Any]
) -> None:
    job = Job(make_tree(tmp_path, {"train": ""}, inputs={"train": declared}))
    assert job.channel("train") == Channel("train", tmp_path / "input/data/train", **expected)


def test_piped_channel_has_fifos_and_no_directory(tmp_path: Path) -> None:
    job = Job(make_tree(tmp_path, {}, inputs={"my.train": {"TrainingInputMode": "Pipe"}}))
    channel = job.channel("my.train")
    assert job.channel_names() == ["my.train"]
    assert channel
    assert channel.piped
    assert channel.fifo(epoch=1) == tmp_path / "input/data/my.train_1"


def test_host_without_a_part_of_a_sharded_channel_has_the_channel(tmp_path: Path) -> None:
    inputs = {"train": {"S3DistributionType": "ShardedByS3Key"}}
    assert Job(make_tree(tmp_path, {}, inputs=inputs)).channel("train")


def test_failure_file_is_written_where_there_is_no_output_directory(job: Job) -> None:
    job.fail("the reason")
    assert job.failure.read_text() == "the reason"


@pytest.mark.parametrize("character", ["a", "ü", "💔", "\ud83d"])
def test_failure_file_has_1024_characters_at_most(job: Job, character: str) -> None:
    job.fail("first line\n" + character * 5000)
    text = job.failure.read_bytes().decode("utf-8")
    assert len(text) == FAILURE_LIMIT == 1024
    assert text.startswith("first line\n")


def test_failure_file_that_cannot_be_written_is_told_to_the_log(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    (job.root / "output").write_text("a file where the directory should be")
    job.fail("the reason")
    assert "the failure file cannot be written" in caplog.text


def test_failure_of_an_earlier_attempt_is_cleared(job: Job) -> None:
    job.fail("the reason")
    job.clear_failure()
    job.clear_failure()
    assert not job.failure.exists()
