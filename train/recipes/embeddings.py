"""The frozen encoder that the recipes `forest` and `logistic` share."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, Manifest, library_versions
from textmodel.classifier import in_windows, load_parts, run_windows
from textmodel.encoder import load_encoder
from textmodel.export import export_openvino
from textmodel.runtime import Runtime
from textmodel.tokenizer import Text, Tokenizer, Tokens
from train.progress import progress
from train.recipes.fitting import Fitting
from train.recipes.tokens import log_cut, write_tokenizer

__all__ = ["EmbeddingTable", "embed"]

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

MAPPED = 256_000_000
"""Bytes from which the embeddings lie in a file, whose memory the kernel can take back."""
WORTH_KEEPING = 1.0
"""Seconds that a checkpoint must save: what takes less is not worth the writing."""

_NAME, _FILE = "embeddings", "embeddings.npy"


def embed(fitting: Fitting, head: str) -> tuple[Array | None, Manifest]:
    """Write the encoder to the model directory and embed the training texts with what was written.

    Returns:
        The embeddings (rows, hidden), which only the leader gets, and the manifest of a model with
        this `head`.
    """
    settings = fitting.settings
    tokenize, limits = write_tokenizer(fitting)
    _write_encoder(fitting, limits.pooling)
    (fitting.directory / "head").mkdir()
    manifest = Manifest(
        task="text-classification",
        recipe=settings.recipe,
        labels=fitting.labels,
        max_length=limits.max_length,
        pooling=limits.pooling,
        normalize=settings.normalize,
        head=head,
        runtimes=("openvino", "torch"),
        base_model=settings.model_name,
        versions=library_versions(),
        multi_label=fitting.train.multi_label,
        pairs=fitting.train.pairs,
    )
    _, runtime, choices = load_parts(Artifact(fitting.directory, manifest).seal())
    for choice in choices:
        log.info("%s", choice)
    features = _embed(fitting, _CutCounter(tokenize), runtime, limits.max_length)
    if features is not None:
        fitting.watchers.look_at_features(features)
    return features, manifest


def _write_encoder(fitting: Fitting, pooling: str) -> None:
    encoder = load_encoder(fitting.encoder, pooling, fitting.settings.normalize)
    encoder.model.save_pretrained(fitting.directory)
    export_openvino(encoder, fitting.directory)


def _embed(
    fitting: Fitting, tokenize: _CutCounter, runtime: Runtime, max_length: int
) -> Array | None:
    """Embed each distinct text once: the processes take the windows in turns.

    The result depends neither on how many there are, nor on which windows a checkpoint holds.
    """
    world, checkpoints = fitting.world, fitting.checkpoints
    table = EmbeddingTable(fitting.train.texts, fitting.directory)
    kept = checkpoints.numbers(_NAME)
    for number in kept:
        table.put(number, np.load(checkpoints.path(_NAME, number) / _FILE, allow_pickle=False))
    if kept:
        log.info("%d of %d windows were embedded before", len(kept), len(table.windows))
    missing = sorted(set(range(len(table.windows))) - set(world.broadcast(kept)))
    own = [table.windows[number] for number in missing[world.rank :: world.size]]
    outputs = run_windows(runtime, tokenize, own, progress(log, "embedding"))
    started = time.monotonic()
    for first in range(0, len(missing), world.size):
        turn = missing[first : first + world.size]
        if world.rank < len(turn):
            output = next(outputs)
            if not world.leads:
                world.send(output)
        for rank, number in enumerate(turn if world.leads else ()):
            if rank:
                output = world.receive((len(table.windows[number]), output.shape[1]), rank)
            table.put(number, output)
            if checkpoints.enabled and time.monotonic() - started > WORTH_KEEPING:
                with checkpoints.writing(_NAME, number) as directory:
                    np.save(directory / _FILE, output, allow_pickle=False)
        started = time.monotonic()
    log_cut(tokenize.cut, sum(map(len, own)), max_length)
    world.any(False)  # who left before the leader has everything would break the connection
    return table.features


class _CutCounter:
    """A tokenizer that counts the texts that it cut."""

    def __init__(self, tokenize: Tokenizer) -> None:
        self.cut = 0
        self._tokenize = tokenize

    def __call__(self, texts: Sequence[Text]) -> list[Tokens]:
        tokens = self._tokenize(texts)
        self.cut += sum(one.cut for one in tokens)
        return tokens


class EmbeddingTable:
    """The embeddings of all rows, filled by the windows that their distinct texts are cut into."""

    def __init__(self, texts: Sequence[Text], directory: Path) -> None:
        """Put the embeddings, where they are large, into a nameless file of `directory`."""
        numbers: dict[Text, int] = {}
        distinct = (numbers.setdefault(text, len(numbers)) for text in texts)
        of_row = np.fromiter(distinct, np.int64, len(texts))
        self.windows = in_windows(list(numbers))
        self.features: Array | None = None
        self._directory = directory
        self._starts = [0, *accumulate(map(len, self.windows))]
        self._rows = of_row.argsort(kind="stable")
        self._sorted = of_row[self._rows]

    def put(self, window: int, output: Array) -> None:
        """Copy a window's embeddings, (texts, hidden), to every row that has the text."""
        if self.features is None:
            self.features = _allocate((len(self._rows), output.shape[1]), self._directory)
        bounds = self._starts[window : window + 2]
        part = slice(*np.searchsorted(self._sorted, bounds))
        self.features[self._rows[part]] = output[self._sorted[part] - bounds[0]]


def _allocate(shape: tuple[int, int], directory: Path) -> Array:
    size = 4 * shape[0] * shape[1]
    if size < MAPPED:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=directory) as file:  # gone with its last user, however it ends
        os.posix_fallocate(file.fileno(), 0, size)  # else a full disk were a crash, later
        return np.memmap(file, np.float32, "r+", shape=shape).view(np.ndarray)
