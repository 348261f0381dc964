"""The model directory: a Hugging Face directory, plus a manifest that says how to execute it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["MANIFEST", "Artifact", "ArtifactError", "Manifest", "library_versions", "writing"]

FORMAT_VERSION = 1
# Not manifest.json: multi-model-server takes a file of that name for a manifest of its own.
MANIFEST = "optml.json"
_STAGING = ".partial"
_LIBRARIES = (
    "numpy",
    "openvino",
    "scikit-learn",
    "tokenizers",
    "torch",
    "transformers",
    "treelite",
)


class ArtifactError(Exception):
    """The model directory cannot be used. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a reader needs to know before it opens any other file of the directory."""

    task: str
    recipe: str
    labels: tuple[str, ...]
    max_length: int
    """Tokens of one text, special tokens included; the rest is cut."""
    pooling: str | None
    """How token states become one vector; None where the encoder ends in logits."""
    normalize: bool
    head: str
    """What turns the encoder's output into probabilities: a key of `heads.HEADS`."""
    runtimes: tuple[str, ...]
    base_model: str
    versions: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    multi_label: bool = False
    """Whether each label has a probability of its own, because a text may have any number."""
    pairs: bool = False
    """Whether it was trained on pairs of texts."""
    int8_agreement: float | None = None
    """Of the rows that it was compared on, the part that the int8 graph labels as fp32 does."""
    int8_rows: int = 0
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every other file, by its path relative to the directory."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Artifact:
    """A finished model directory and its manifest."""

    directory: Path
    manifest: Manifest
    plain: bool = False
    """Whether the manifest was made now, of a directory that has none and no checksums."""

    @classmethod
    def open(cls, directory: Path) -> Artifact:
        """Read the manifest of `directory`.

        Raises:
            ArtifactError: there is none, or this version cannot read it.
        """
        path = directory / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = ", ".join(sorted(p.name for p in directory.glob("*"))[:8]) or "nothing"
            raise ArtifactError(
                f"{directory} holds no model: there is no {MANIFEST} (found: {found}). "
                "The directory must be what `train` wrote to /opt/ml/model, or a Hugging Face "
                "model, or have a function such as predict_fn in code/inference.py; a model.tar.gz "
                "must have its files at the root of the archive."
            ) from None
        except (ValueError, OSError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        return cls(directory, _parse(values, path))

    def file(self, name: str) -> Path:
        """Return the path of one file, after comparing it with its checksum.

        Raises:
            ArtifactError: the file is missing, unknown to the manifest, or was changed.
        """
        path = self.directory / name
        try:
            actual = _sha256(path)
        except OSError as error:
            raise ArtifactError(
                f"the model is incomplete: {name} cannot be read: {error}"
            ) from error
        if self.manifest.files.get(name) != actual:
            raise ArtifactError(
                f"{name} is not the file that was written with the model: its sha256 differs from "
                f"{MANIFEST}. The upload or download broke, or it was edited; fetch it again."
            )
        return path

    def seal(self) -> Artifact:
        """Write the manifest, with the checksum of every file that is there now."""
        files = {
            path.relative_to(self.directory).as_posix(): _sha256(path)
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path != self.directory / MANIFEST
        }
        values = {**asdict(self.manifest), "files": files}
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (self.directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return Artifact.open(self.directory)


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """Yield an empty directory whose content replaces that of `directory` on success.

    On any exception, a stop included, `directory` keeps what it had.
    """
    staging = directory / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in staging.rglob("*"):
            # The server may run as another user, and safetensors writes for the owner alone.
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        # While the manifest is absent, no reader takes the directory for a model. The directory
        # itself stays, because it can be a mount point.
        (directory / MANIFEST).unlink(missing_ok=True)
        for path in set(directory.iterdir()) - {staging}:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(directory / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that shape a model's numbers."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _parse(values: object, path: Path) -> Manifest:
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} is not a JSON object")
    found = values.get("format_version")
    if found != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format_version {found!r}; this program reads {FORMAT_VERSION}. "
            "Serve the model with the image version that trained it, or train it again."
        )
    names = {item.name for item in fields(Manifest)}
    known: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if key in names
    }
    try:
        return Manifest(**known)
    except TypeError as error:
        raise ArtifactError(f"{path} is incomplete: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
