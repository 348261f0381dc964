"""Texts to tokens, the way the model directory will do it for every later text."""

from __future__ import annotations

import logging

from textmodel.encoder import TextLimits, load_tokenizer, text_limits
from textmodel.tokenizer import Tokenizer
from train.recipes.fitting import Fitting

__all__ = ["log_cut", "write_tokenizer"]

log = logging.getLogger(__name__)


def write_tokenizer(fitting: Fitting) -> tuple[Tokenizer, TextLimits]:
    """Write the encoder's tokenizer to the model directory, and load it from there.

    Returns:
        The tokenizer, and the encoder's limits with the length that texts are cut to.
    """
    tokenizer = load_tokenizer(fitting.encoder)
    limits = text_limits(fitting.encoder, tokenizer).chosen(
        fitting.settings.max_length, fitting.settings.pooling
    )
    tokenizer.model_max_length = limits.max_length  # for other tools that load it
    tokenizer.save_pretrained(fitting.directory)
    written = Tokenizer(
        fitting.directory / "tokenizer.json",
        fitting.directory / "tokenizer_config.json",
        limits.max_length,
    )
    return written, limits


def log_cut(cut: int, texts: int, max_length: int) -> None:
    """Tell how many texts lost their ends."""
    if cut:
        log.warning(
            "%d of %d texts are longer than max_length=%d tokens and were cut",
            cut, texts, max_length,
        )  # fmt: skip
