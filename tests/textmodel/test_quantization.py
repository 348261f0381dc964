"""The int8 graph of small encoders, made in the process of its own that makes it for `train`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.textmodel.encoders import FAMILIES, make_encoder
from tests.textmodel.test_encoder import write
from tests.train.trees import REPOSITORY, messages
from textmodel.artifact import Artifact
from textmodel.classifier import load_parts
from textmodel.compiled import openvino_core
from textmodel.encoder import load_encoder, load_for_finetuning
from textmodel.layouts import layout_of
from textmodel.outliers import FLOAT_PREFIX, split_outliers
from textmodel.runtime import OPENVINO_FILES

TEXTS = [text for text, _ in messages(0, 30)]
CALIBRATION = [*TEXTS, ""]


def python(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        input=stdin,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )


def quantise(artifact: Artifact) -> Artifact:
    """Add the int8 graph as `train` does."""
    done = python(
        "-m", "textmodel.quantization", str(artifact.directory), stdin=json.dumps(CALIBRATION)
    )
    assert done.returncode == 0, done.stderr
    # A line for each execution of a text, and nothing else.
    assert set(done.stdout) == {"\n"}
    assert len(done.stdout) % len(CALIBRATION) == 0
    return artifact.seal()


def products(artifact: Artifact) -> list[Any]:
    graph = openvino_core().read_model(artifact.directory / OPENVINO_FILES["int8"][0])
    return [
        node
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "MatMul" and FLOAT_PREFIX not in node.get_friendly_name()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_of_every_family_is_near_to_float(family: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    encoder = load_encoder(source, "mean", normalize=True)
    artifact = quantise(write(encoder, source, tmp_path / "model"))
    tokenize, reference, _ = load_parts(artifact, "openvino", "fp32")
    _, int8, _ = load_parts(artifact, "openvino", "int8")
    tokens = tokenize(TEXTS)
    cosines = (reference(tokens) * int8(tokens)).sum(axis=1)  # of vectors of length 1
    assert cosines.mean() > 0.97
    kinds = [node.input_value(1).get_node().get_type_name() for node in products(artifact)]
    assert kinds.count("FakeQuantize") + kinds.count("Multiply") > 5  # weights on their grid


@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_what_comes_behind_the_pooling_stays_in_float(head: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder")
    encoder = load_for_finetuning(source, ("a", "b", "c"), head).eval()
    artifact = quantise(write(encoder, source, tmp_path / "model"))
    for product in products(artifact):
        if not product.get_attributes()["transpose_b"]:  # pooling, a product without weights
            continue
        in_float = product.input_value(1).get_node().get_type_name() == "Constant"
        of_tokens = product.get_output_partial_shape(0).rank.get_length() == 3
        assert in_float == (not of_tokens)
    tokenize, reference, _ = load_parts(artifact, "openvino", "fp32")
    _, int8, _ = load_parts(artifact, "openvino", "int8")
    tokens = tokenize(TEXTS)
    expected = reference(tokens)
    assert np.abs(int8(tokens) - expected).mean() < 0.2 * expected.std()


def test_outliers_are_split_off_without_a_change_of_the_output(tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder")
    encoder = load_encoder(source, "mean")
    layers: Any = encoder.model.encoder
    with torch.no_grad():
        layers.layer[1].intermediate.dense.bias[7] = 60.0
    artifact = write(encoder, source, tmp_path / "model")
    tokenize, reference, _ = load_parts(artifact, "openvino", "fp32")
    core, tokens = openvino_core(), tokenize(TEXTS)
    graph = core.read_model(artifact.directory / OPENVINO_FILES["float"][0])
    layout = layout_of(graph, tokenize.pad_id, artifact.manifest.max_length)
    arrays = [layout.unpadded(one) for one in tokens]
    assert split_outliers(core, graph, arrays) >= 1
    names = [node.get_friendly_name() for node in graph.get_ordered_ops()]
    assert any(name.startswith(f"{FLOAT_PREFIX}7/") and "layer.1" in name for name in names)
    again = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [again(inputs)[0][0] for inputs in arrays]
    np.testing.assert_allclose(found, reference(tokens), atol=1e-4)


def test_nncf_reports_nothing_over_the_network() -> None:
    done = python("-c", "import textmodel, nncf; print(nncf.telemetry.telemetry)")
    assert "Mock" in done.stdout, done.stderr


def test_nncf_is_imported_only_to_quantise() -> None:
    modules = "train.worker, train.int8, train.recipes.finetune, textmodel.quantization"
    done = python("-c", f"import sys, {modules}; print('nncf' in sys.modules)")
    assert done.stdout == "False\n", done.stderr
