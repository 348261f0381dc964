"""The frozen encoder that the recipes `forest` and `logistic` share."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, Manifest, library_versions
from textmodel.classifier import load_parts, run_sorted
from textmodel.encoder import export_openvino, load_encoder
from train.progress import progress
from train.recipes.fitting import Fitting
from train.recipes.tokens import log_cut, write_tokenizer

__all__ = ["embed"]

log = logging.getLogger(__name__)


def embed(fitting: Fitting, head: str) -> tuple[NDArray[np.float32], Manifest]:
    """Write the encoder to the model directory and embed the training texts with what was written.

    Returns:
        The embeddings (rows, hidden), and the manifest of a model with this `head`.
    """
    settings = fitting.settings
    tokenize, limits = write_tokenizer(fitting)
    pooling = limits.pooling if settings.pooling == "auto" else settings.pooling
    encoder = load_encoder(fitting.encoder, pooling, settings.normalize)
    encoder.model.save_pretrained(fitting.directory)
    export_openvino(encoder, fitting.directory)
    (fitting.directory / "head").mkdir()
    manifest = Manifest(
        task="text-classification",
        recipe=settings.recipe,
        labels=fitting.labels,
        max_length=limits.max_length,
        pooling=pooling,
        normalize=settings.normalize,
        head=head,
        runtimes=("openvino", "torch"),
        base_model=settings.model_name,
        versions=library_versions(),
    )
    _, runtime, choices = load_parts(Artifact(fitting.directory, manifest).seal())
    for choice in choices:
        log.info("%s", choice)
    tokens = tokenize(fitting.train.texts)
    log_cut(tokens, limits.max_length)
    return run_sorted(runtime, tokens, progress(log, "embedding")), manifest
