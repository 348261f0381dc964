from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.train.trees import files_of
from textmodel.artifact import Artifact, ArtifactError, Manifest, library_versions, writing

MANIFEST = Manifest(
    task="text-classification",
    recipe="logistic",
    labels=("nein", "jä"),
    max_length=64,
    pooling="mean",
    normalize=True,
    head="linear",
    runtimes=("openvino",),
    base_model="tiny",
    versions={"numpy": "2"},
    metrics={"test_accuracy": 0.5},
)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "head").mkdir()
    (tmp_path / "head/weights").write_bytes(b"123")
    (tmp_path / "config.json").write_text("{}")
    return Artifact(tmp_path, MANIFEST).seal()


def edit(artifact: Artifact, **changes: Any) -> None:
    path = artifact.directory / "optml.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def fill(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"new {name}")


def fill_until(interruption: type[BaseException], directory: Path) -> None:
    with writing(directory) as staging:
        fill(staging, "optml.json", "head/weights")
        raise interruption


def test_manifest_reads_as_it_was_written(artifact: Artifact) -> None:
    found = Artifact.open(artifact.directory).manifest
    assert (found.labels, found.max_length, found.runtimes) == (("nein", "jä"), 64, ("openvino",))
    assert found.metrics == {"test_accuracy": 0.5}


def test_manifest_lists_every_other_file(artifact: Artifact) -> None:
    assert set(artifact.manifest.files) == {"config.json", "head/weights"}


def test_manifest_in_a_subdirectory_is_a_file_like_any(artifact: Artifact) -> None:
    fill(artifact.directory, "code/optml.json")
    assert "code/optml.json" in artifact.seal().manifest.files


def test_file_that_is_as_written_is_given(artifact: Artifact) -> None:
    assert artifact.file("head/weights").read_bytes() == b"123"


def test_changed_file_is_refused_with_its_name(artifact: Artifact) -> None:
    (artifact.directory / "head/weights").write_bytes(b"124")
    with pytest.raises(ArtifactError, match="head/weights is not the file that was written"):
        artifact.file("head/weights")


def test_missing_file_is_refused_with_its_name(artifact: Artifact) -> None:
    (artifact.directory / "head/weights").unlink()
    with pytest.raises(ArtifactError, match="incomplete: head/weights"):
        artifact.file("head/weights")


def test_file_that_the_manifest_does_not_know_is_refused(artifact: Artifact) -> None:
    fill(artifact.directory, "extra")
    with pytest.raises(ArtifactError, match="extra is not the file"):
        artifact.file("extra")


def test_directory_without_manifest_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path, "model/optml.json")
    with pytest.raises(ArtifactError, match=r"holds no model.*found: model.*root of the archive"):
        Artifact.open(tmp_path)


def test_directory_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found: nothing"):
        Artifact.open(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "{", "\x00", '"text"', "[1]"])
def test_manifest_that_is_no_json_object_is_refused(artifact: Artifact, text: str) -> None:
    (artifact.directory / "optml.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"optml\.json (cannot be read|is not a JSON object)"):
        Artifact.open(artifact.directory)


@pytest.mark.parametrize("found", [2, 0, "1", None])
def test_other_format_version_is_refused_with_both_numbers(artifact: Artifact, found: Any) -> None:
    edit(artifact, format_version=found)
    with pytest.raises(ArtifactError, match=f"format_version {found!r}; this program reads 1"):
        Artifact.open(artifact.directory)


def test_manifest_without_a_needed_value_is_refused_with_its_name(artifact: Artifact) -> None:
    path = artifact.directory / "optml.json"
    values = json.loads(path.read_text())
    del values["labels"]
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"incomplete.*labels"):
        Artifact.open(artifact.directory)


def test_value_that_a_later_version_adds_is_ignored(artifact: Artifact) -> None:
    edit(artifact, colour="blue")
    assert Artifact.open(artifact.directory).manifest.recipe == "logistic"


def test_writing_replaces_everything_that_was_there(tmp_path: Path) -> None:
    fill(tmp_path, "optml.json", "head/old", "old", "deep/er/old")
    with writing(tmp_path) as staging:
        fill(staging, "optml.json", "head/new")
    assert files_of(tmp_path) == {"optml.json", "head", "head/new"}


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_interrupted_writing_keeps_the_old_model(
    artifact: Artifact, interruption: type[BaseException]
) -> None:
    before = files_of(artifact.directory)
    with pytest.raises(interruption):
        fill_until(interruption, artifact.directory)
    assert files_of(artifact.directory) == before
    assert Artifact.open(artifact.directory).file("head/weights").read_bytes() == b"123"


def test_writing_starts_empty_after_an_attempt_that_was_killed(tmp_path: Path) -> None:
    fill(tmp_path, ".partial/half")
    with writing(tmp_path) as staging:
        assert not files_of(staging)
    assert not files_of(tmp_path)


def test_writing_makes_the_directory(tmp_path: Path) -> None:
    with writing(tmp_path / "ml/model") as staging:
        fill(staging, "optml.json")
    assert files_of(tmp_path / "ml/model") == {"optml.json"}


def test_written_files_are_readable_by_every_user(tmp_path: Path) -> None:
    with writing(tmp_path) as staging:
        fill(staging, "head/weights")
        (staging / "head/weights").chmod(0o600)
        (staging / "head").chmod(0o700)
    assert (tmp_path / "head/weights").stat().st_mode & 0o444 == 0o444
    assert (tmp_path / "head").stat().st_mode & 0o555 == 0o555


def test_directory_on_another_file_system_is_written_in_place(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    mounted = other / f"optml-{tmp_path.name}"
    mounted.mkdir()
    (tmp_path / "model").symlink_to(mounted)
    try:
        with writing(tmp_path / "model") as staging:
            fill(staging, "optml.json")
        assert files_of(mounted) == {"optml.json"}
    finally:
        shutil.rmtree(mounted)


def test_versions_are_those_installed() -> None:
    found = library_versions()
    assert found["treelite"] == version("treelite")
    assert {"numpy", "tokenizers"} <= found.keys()
