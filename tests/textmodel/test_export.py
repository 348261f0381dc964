from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.textmodel.encoders import FAMILIES, make_encoder
from textmodel import export
from textmodel.encoder import load_encoder, load_for_finetuning
from textmodel.export import SLOTS, convert_openvino

PACKED = set(FAMILIES) - {"deberta-v2", "modernbert"}
"""Those whose attention knows a token's place by nothing but its position."""


def reads_packed(graph: Any) -> bool:
    return "segments" in {port.any_name for port in graph.inputs}


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_packed_where_the_encoder_allows_for_it(family: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    for pooling in ("mean", "cls"):
        graph = convert_openvino(load_encoder(source, pooling))
        assert reads_packed(graph) == (family in PACKED)


@pytest.mark.parametrize("family", sorted(PACKED - {"albert"}))
def test_texts_of_classifiers_are_packed(family: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    graph = convert_openvino(load_for_finetuning(source, ("a", "b", "c")))
    assert reads_packed(graph)
    assert list(graph.output(0).get_shape()) == [SLOTS, 3]


@pytest.mark.parametrize(("head", "pooling"), [("bilstm", "mean"), ("pooled", "max")])
def test_what_needs_a_text_as_a_row_of_its_own_is_not_packed(
    head: str, pooling: str, tmp_path: Path
) -> None:
    source = make_encoder(tmp_path / "encoder")
    encoder = load_for_finetuning(source, ("a", "b"), head, pooling=pooling).eval()
    assert not reads_packed(convert_openvino(encoder.executed()))


def test_texts_that_would_get_other_answers_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(module: Any, input_ids: Any, position_ids: Any, segments: Any, *types: Any) -> Any:
        return original(module, input_ids, position_ids, torch.ones_like(segments), *types)

    original = export._Packed.forward
    monkeypatch.setattr(export._Packed, "forward", blind)
    encoder = load_encoder(make_encoder(tmp_path / "encoder"), "mean")
    assert not reads_packed(convert_openvino(encoder))
