"""The finished model's encoder in int8 too, with how often it answers as fp32 does."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, Manifest
from textmodel.classifier import load_classifier
from textmodel.runtime import OPENVINO_FILES, openvino_precision
from textmodel.tokenizer import Text
from train.data import Splits
from train.errors import Stopped
from train.progress import progress
from train.recipes import Fitting

__all__ = ["add_int8"]

log = logging.getLogger(__name__)

CALIBRATED = 300
"""Training texts at most that the ranges of activations are taken from."""
COMPARED = 2000
"""Held-out texts at most that int8 is compared with fp32 on."""

LAST_LINES = 20
"""What is told of a failure: lines of what the program said."""


def add_int8(fitting: Fitting, splits: Splits, manifest: Manifest) -> Manifest:
    """Add the int8 graph to a sealed model directory; return the manifest with what it is worth.

    Where the graph cannot be quantised, or at a stop, the model is as it was.

    Raises:
        Stopped: the job is to end.
    """
    directory, seed = fitting.directory, fitting.settings.seed
    held_out = splits.held_out
    data = held_out.get("validation", held_out.get("test"))
    assert data is not None
    texts = _some(data.texts, COMPARED, seed)
    try:
        _quantise(directory, _some(splits.train.texts, CALIBRATED, seed))
        Artifact(directory, manifest).seal()
        same = _labels(directory, "fp32", texts) == _labels(directory, "int8", texts)
        agreement = float(same.all(axis=1).mean())
        found = dataclasses.replace(manifest, int8_agreement=agreement, int8_rows=len(texts))
        sealed = Artifact(directory, found).seal()
    except _Failed as error:
        log.error("the model is kept without int8, because nncf failed: %s", error)
        _undo(directory, manifest)
        return manifest
    except Stopped as error:
        fitting.stop.ignore()
        log.warning("stopped by %s: the model is kept without int8", error)
        _undo(directory, manifest)
        raise
    fitting.metrics.report({"int8_agreement": agreement})
    log.info("on a CPU like this one, serve chooses %s", openvino_precision(sealed.manifest))
    return found


def _undo(directory: Path, manifest: Manifest) -> None:
    for name in OPENVINO_FILES["int8"]:
        (directory / name).unlink(missing_ok=True)
    Artifact(directory, manifest).seal()


class _Failed(Exception):
    """The program that quantises did; the message is how it ended and what it said last."""


def _quantise(directory: Path, texts: Sequence[Text]) -> None:
    """Write the int8 graph, in a process of its own: `textmodel.quantization` says why."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    log.info("quantising the encoder to int8, with %d training texts", len(texts))
    report = progress(log, "quantising, texts executed")
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "textmodel.quantization", directory],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # a stop is this process's to handle
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError), process.stdin:
                json.dump(texts, process.stdin)
            for done, _ in enumerate(process.stdout, 1):
                report(done)
        except BaseException:  # `with` would wait for its end
            process.kill()
            raise
        if code := process.wait():
            errors.seek(0)
            said = errors.read().splitlines()[-LAST_LINES:]
            raise _Failed("\n".join([f"exit status {code}", *said]))


def _labels(directory: Path, precision: str, texts: Sequence[Text]) -> NDArray[np.bool_]:
    """Return which labels the model gives each text in this precision, (texts, labels)."""
    classifier = load_classifier(directory, runtime="openvino", precision=precision)
    scores = classifier.predict(texts, progress(log, f"comparing, {precision}"))
    given = np.zeros(scores.shape, bool)
    for row, of_row in zip(given, scores, strict=True):
        row[classifier.choose(of_row)] = True
    return given


def _some(texts: Sequence[Text], most: int, seed: int) -> Sequence[Text]:
    return texts if len(texts) <= most else random.Random(seed).sample(texts, most)
