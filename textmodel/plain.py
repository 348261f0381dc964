"""A plain Hugging Face directory, which nobody wrote a manifest for: what its own files say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from textmodel.artifact import MANIFEST, Artifact, ArtifactError, Manifest, library_versions

__all__ = ["TASKS", "Plain", "check_model", "open_model", "read_plain", "tokenizer_files"]

TASKS = ("text-classification", "feature-extraction")
_ALIASES = {"sentiment-analysis": "text-classification"}
_CLASSIFIER = "ForSequenceClassification"
# How the names of encoders end, with nothing on top or with what they were pretrained with.
_ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining")
_OURS = (MANIFEST, "head", "openvino/encoder.xml")
_MODULES = {"Transformer", "Pooling", "Normalize"}
_POOLINGS = {
    *("mean", "cls", "max"),
    *("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"),
}


@dataclass(frozen=True)
class Plain:
    """What config.json and the files of sentence-transformers say of a model."""

    task: str
    labels: tuple[str, ...]
    multi_label: bool
    normalize: bool
    name: str


def check_model(directory: Path, task: str | None = None) -> None:
    """Look whether a directory holds a model, as far as that takes neither time nor memory.

    Raises:
        ArtifactError: as `open_model`.
    """
    if _is_plain(directory):
        read_plain(directory, task)
    else:
        open_model(directory, task)


def open_model(directory: Path, task: str | None = None) -> Artifact:
    """Open what `train` wrote, or a plain Hugging Face directory.

    Raises:
        ArtifactError: it is neither, or made for another task.
    """
    if _is_plain(directory):
        return _open_plain(directory, task)
    artifact = Artifact.open(directory)
    if task and _ALIASES.get(task, task) != artifact.manifest.task:
        raise ArtifactError(
            f"{directory} was made for the task {artifact.manifest.task}, not for {task} "
            "(HF_TASK); unset the variable"
        )
    return artifact


def read_plain(directory: Path, task: str | None = None) -> Plain:
    """Read what a directory is good for. Takes neither time nor memory.

    Args:
        directory: a Hugging Face directory.
        task: one of TASKS; if not given, what the architecture is made for.

    Raises:
        ArtifactError: it is good for nothing that is served here, or this image cannot execute it.
    """
    config = _read(directory, "config.json")
    architecture = (config.get("architectures") or [""])[0]
    task = _ALIASES.get(task, task) if task else _task(architecture)
    if task not in TASKS:
        raise ArtifactError(
            f"{directory} has the architecture {architecture or 'of an encoder'}, for the task "
            f"{task or 'unknown'} (HF_TASK); served are {', '.join(TASKS)}. "
            "For any other, put your own code/inference.py beside the model"
        )
    _check_weights(directory)
    classifies = task == "text-classification"
    if classifies and not architecture.endswith(_CLASSIFIER):
        raise ArtifactError(
            f"{directory} has no classifier: its architecture is {architecture}, not one that ends "
            f"in {_CLASSIFIER}; train one on it with `train` (model_name=…)"
        )
    if classifies and config.get("problem_type") == "regression":
        raise ArtifactError(f"{directory} is for regression, which is not served here")
    return Plain(
        task,
        _labels(config) if classifies else (),
        classifies and config.get("problem_type") == "multi_label_classification",
        not classifies and _normalizes(directory),
        config.get("_name_or_path") or directory.name,
    )


@contextmanager
def tokenizer_files(artifact: Artifact) -> Iterator[tuple[Path, Path]]:
    """Yield tokenizer.json and tokenizer_config.json; of a plain directory, made of what it has.

    Raises:
        ArtifactError: they are not those that were written, or there is no fast tokenizer.
    """
    if not artifact.plain:
        yield artifact.file("tokenizer.json"), artifact.file("tokenizer_config.json")
        return
    from textmodel.encoder import load_tokenizer

    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        load_tokenizer(artifact.directory).save_pretrained(scratch)
        yield Path(scratch, "tokenizer.json"), Path(scratch, "tokenizer_config.json")


def _is_plain(directory: Path) -> bool:
    """Return whether a directory is another's, and not a broken one of ours."""
    ours = any((directory / name).exists() for name in _OURS)
    return (directory / "config.json").is_file() and not ours


def _open_plain(directory: Path, task: str | None) -> Artifact:
    """Return a directory with a manifest that is made of its own files."""
    plain = read_plain(directory, task)
    from textmodel.encoder import load_tokenizer, text_limits

    limits = text_limits(directory, load_tokenizer(directory))
    classifies = plain.task == "text-classification"
    manifest = Manifest(
        task=plain.task,
        recipe="none",
        labels=plain.labels,
        max_length=limits.max_length,
        pooling=None if classifies else limits.pooling,
        normalize=plain.normalize,
        head="logits" if classifies else "none",
        runtimes=("openvino", "torch") if find_spec("openvino") else ("torch",),
        base_model=plain.name,
        versions=library_versions(),
        multi_label=plain.multi_label,
    )
    return Artifact(directory, manifest, plain=True)


def _task(architecture: str) -> str | None:
    if architecture.endswith(_CLASSIFIER):
        return "text-classification"
    if not architecture or architecture.endswith(_ENCODERS):
        return "feature-extraction"
    return None


def _check_weights(directory: Path) -> None:
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if lacking:
        raise ArtifactError(
            f"{directory} is a plain Hugging Face model, and this image has no "
            f"{' and no '.join(lacking)} to execute it. Serve it with an image that has (target "
            "`both`, or `serve` for GPUs), or make a model for this one with `train` "
            "(model_name=…)"
        )
    weights = list(directory.glob("*.safetensors"))
    closed = [path.name for path in weights if not os.access(path, os.R_OK)]
    if closed:
        raise ArtifactError(
            f"{directory / closed[0]} may not be read by user {os.getuid()}, as whom this runs; "
            "save_pretrained writes weights for their owner alone. Type chmod -R a+rX on the "
            "directory before you pack it"
        )
    if not weights:
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:8])
        raise ArtifactError(
            f"{directory} has no weights as safetensors (found: {found}). Pickled ones, such as "
            "pytorch_model.bin, are not read; load them where you trust them and save them with "
            "save_pretrained"
        )


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label") or {}
    if not names:
        return tuple(f"LABEL_{index}" for index in range(config.get("num_labels", 2)))
    return tuple(str(names[index]) for index in sorted(names, key=int))


def _normalizes(directory: Path) -> bool:
    """Return whether sentence-transformers scales the vectors to length 1.

    Raises:
        ArtifactError: it does what is not done here.
    """
    if not (directory / "modules.json").is_file():
        return False
    kinds = [module["type"].rpartition(".")[2] for module in _read(directory, "modules.json")]
    pooling = _read(directory, "1_Pooling/config.json")
    # Before version 6 of sentence-transformers a flag a mode, since then the name of one.
    modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    modes += [pooling["pooling_mode"]] if "pooling_mode" in pooling else []
    unknown = set(kinds) - _MODULES | set(modes) - _POOLINGS
    if unknown or len(modes) > 1:
        raise ArtifactError(
            f"{directory} makes embeddings in a way that is not served here: "
            f"{', '.join(sorted(unknown) or modes)}"
        )
    return "Normalize" in kinds


def _read(directory: Path, name: str) -> Any:
    try:
        return json.loads((directory / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{directory / name} cannot be read: {error}") from error
