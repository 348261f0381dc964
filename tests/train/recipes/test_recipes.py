"""Every recipe with every family of encoders, in this process."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from tests.textmodel.encoders import FAMILIES, declare, make_encoder
from tests.train.trees import as_csv, files_of, make_tree, messages
from textmodel.artifact import Artifact
from textmodel.classifier import load_classifier
from train.errors import UserError
from train.job import Job
from train.metrics import METRIC_REGEX
from train.recipes import _MODULES, load_recipe
from train.stopping import Stop
from train.worker import run
from train.world import World

MESSAGES = messages(0, 200)
QUICK = {"n_estimators": "5", "epochs": "0.5", "train_batch_size": "8"}


def fit(root: Path, encoder: Path, recipe: str, train: str = "", **more: str) -> Job:
    train = train or as_csv(messages(0, 40))
    channels = {"train": train, "test": as_csv(messages(40, 60))}
    settings = QUICK | {"recipe": recipe, "model_name": str(encoder)} | more
    job = Job(make_tree(root, channels, settings))
    run(job, Stop(), World())
    return job


def predictions(job: Job) -> tuple[list[str], list[str]]:
    with (job.output_data / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["prediction"] for row in rows]


@pytest.mark.parametrize("recipe", ["logistic", "finetune"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_answers_as_it_was_measured(
    recipe: str, family: str, tmp_path: Path
) -> None:
    job = fit(tmp_path / "ml", make_encoder(tmp_path / "encoder", family), recipe)
    classifier = load_classifier(job.model)
    texts, measured = predictions(job)
    scores = classifier.predict(texts)
    assert np.isfinite(scores).all()
    assert [classifier.labels[index] for index in scores.argmax(1)] == measured


@pytest.mark.parametrize("recipe", _MODULES)
def test_more_than_two_labels_are_learned(recipe: str, tmp_path: Path, tiny_encoder: Path) -> None:
    labels = ["10", "9", "災害, 大", "nan", "-1"]
    rows = [[text, labels[number % 5]] for number, (text, _) in enumerate(messages(0, 50))]
    job = fit(tmp_path, tiny_encoder, recipe, as_csv(rows))
    classifier = load_classifier(job.model)
    assert classifier.labels == ("-1", "9", "10", "nan", "災害, 大")
    assert classifier.predict(["a", "b"]).shape == (2, 5)


@pytest.mark.parametrize("recipe", _MODULES)
def test_same_seed_makes_the_same_model(recipe: str, tmp_path: Path, tiny_encoder: Path) -> None:
    first, again, other = (
        fit(tmp_path / name, tiny_encoder, recipe, seed=seed, C="1", max_depth="2")
        for name, seed in (("first", "1"), ("again", "1"), ("other", "2"))
    )
    texts, _ = predictions(first)
    answers = [load_classifier(job.model).predict(texts) for job in (first, again, other)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    if recipe != "logistic":  # its optimum is the same from everywhere
        assert not np.allclose(answers[0], answers[2], atol=1e-6)


def test_declared_pooling_and_length_are_kept(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    declare(encoder, pooling="cls_token", max_length=33)
    manifest = Artifact.open(fit(tmp_path / "ml", encoder, "logistic").model).manifest
    assert (manifest.pooling, manifest.max_length) == ("cls", 33)


@pytest.mark.parametrize("recipe", ["logistic", "finetune"])
def test_requested_length_and_pooling_win(recipe: str, tmp_path: Path, tiny_encoder: Path) -> None:
    job = fit(tmp_path, tiny_encoder, recipe, max_length="16", pooling="max")
    manifest = Artifact.open(job.model).manifest
    assert manifest.max_length == 16
    assert manifest.pooling == ("max" if recipe == "logistic" else None)
    assert json.loads((job.model / "tokenizer_config.json").read_text())["model_max_length"] == 16
    assert len(load_classifier(job.model).tokenize(["word " * 99])[0]) == 16


def test_length_beyond_the_positions_of_roberta_is_cut(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder", "roberta")
    rows = [*messages(0, 20), ["x" * 5000, "other"]]
    job = fit(tmp_path / "ml", encoder, "finetune", as_csv(rows), max_length="2000")
    assert Artifact.open(job.model).manifest.max_length == 512


def test_plain_transformers_gives_the_same_labels(finetuned_model: Path) -> None:
    texts, measured = predictions(Job(finetuned_model))
    plain = pipeline("text-classification", str(finetuned_model / "model"))
    scores = load_classifier(finetuned_model / "model", precision="fp32").predict(texts)
    answers = plain(texts, truncation=True)
    assert [answer["label"] for answer in answers] == [
        ("disaster", "other")[index] for index in scores.argmax(1)
    ]
    np.testing.assert_allclose(
        [answer["score"] for answer in answers], scores.max(axis=1), atol=1e-3
    )
    agreeing = sum(
        answer["label"] == label for answer, label in zip(answers, measured, strict=True)
    )
    assert agreeing >= 58  # measured in bf16 where the CPU has it


def test_finetuning_goes_on_from_a_model_with_other_labels(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    first = fit(tmp_path / "first", tiny_encoder, "finetune")
    rows = [[text, str(number % 3)] for number, (text, _) in enumerate(messages(0, 40))]
    second = fit(tmp_path / "second", first.model, "finetune", as_csv(rows))
    assert Artifact.open(second.model).manifest.labels == ("0", "1", "2")


@pytest.mark.parametrize("tree", ["forest_model", "logistic_model", "finetuned_model"])
def test_model_holds_no_pickle_and_nothing_unlisted(
    tree: str, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(tree) / "model"
    files = {path for path in files_of(model) if (model / path).is_file()}
    assert files - {"optml.json"} == Artifact.open(model).manifest.files.keys()
    assert {Path(path).suffix for path in files} <= {
        ".json", ".safetensors", ".treelite", ".xml", ".bin",
    }  # fmt: skip
    assert [path for path in files if path.endswith(".bin")] == ["openvino/encoder.bin"]


@pytest.mark.parametrize("recipe", _MODULES)
def test_encoder_that_cannot_be_loaded_is_the_users_to_change(recipe: str, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    (encoder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded as an encoder"):
        fit(tmp_path / "ml", encoder, recipe)
    assert files_of(tmp_path / "ml/model") == set()


def test_solver_that_was_cut_off_is_told(
    tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(match="failed to converge"):
        fit(tmp_path, tiny_encoder, "logistic", max_iter="1")
    assert "the solver stopped at max_iter=1" in caplog.text


EMBEDDED = ["forest", "logistic"]
"""The recipes on frozen embeddings."""


def with_lists(*rows: tuple[str, list[str]]) -> dict[str, str]:
    """Return a channel of texts with lists of labels."""
    lines = (json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows)
    return {"data.jsonl": "".join(lines)}


@pytest.mark.parametrize("weights", ["none", "balanced", '{"rare": 5}'])
@pytest.mark.parametrize("recipe", EMBEDDED)
def test_labels_that_every_or_hardly_any_row_has_are_learned(
    recipe: str, weights: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    texts = ["fire burns" if row % 2 else "a calm day" for row in range(40)]
    texts[7] = "災害 💔 災害"
    labels = [["always", *["rare"] * (row == 7), *["odd"] * (row % 2)] for row in range(40)]
    rows = list(zip(texts, labels, strict=True))
    settings = {"recipe": recipe, "model_name": str(tiny_encoder), "class_weights": weights}
    channels = {"train": with_lists(*rows), "test": with_lists(*rows[6:8], ("a calm day", []))}
    job = Job(make_tree(tmp_path, channels, settings | {"min_samples_leaf": "1"}))
    run(job, Stop(), World())
    classifier = load_classifier(job.model)
    assert classifier.labels == ("always", "odd", "rare")
    always, odd, rare = classifier.predict(texts).T
    assert (always > 0.95).all()
    assert ((odd > 0.5) == np.arange(40) % 2).all()
    assert rare.argmax() == 7


def test_forest_of_rows_with_the_same_labels_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    row = ("a text", ["a", "b"])
    channels = {"train": with_lists(row, row), "test": with_lists(row)}
    job = Job(make_tree(tmp_path, channels, {"model_name": str(tiny_encoder)}))
    with pytest.raises(UserError, match="all rows of the channel train have the same labels"):
        run(job, Stop(), World())


@pytest.mark.parametrize("recipe", EMBEDDED)
def test_class_weights_move_the_answers_towards_the_label(
    recipe: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    rows = [[text, "rare" if row % 8 == 0 else "usual"] for row, (text, _) in enumerate(MESSAGES)]
    means = []
    for weights in ("none", "balanced", '{"rare": 0.01}'):
        job = fit(tmp_path / weights[:4], tiny_encoder, recipe, as_csv(rows), class_weights=weights)
        classifier = load_classifier(job.model)
        assert classifier.labels == ("rare", "usual")
        means.append(classifier.predict([text for text, _ in MESSAGES])[:, 0].mean())
    none, balanced, neglected = means
    assert balanced > none + 0.1 > neglected + 0.15


@pytest.mark.parametrize("recipe", _MODULES)
def test_class_weights_of_unknown_labels_are_refused(
    recipe: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    with pytest.raises(UserError, match="class_weights: 'floods' are no labels of the channel"):
        fit(tmp_path, tiny_encoder, recipe, class_weights='{"floods": 2}')


def test_out_of_bag_score_is_a_metric(
    tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, tiny_encoder, "forest", oob_score="true", n_estimators="50")
    found = re.search(METRIC_REGEX.format(name="oob_accuracy"), caplog.text)
    assert found
    assert 0 < float(found[1]) < 1


@pytest.mark.parametrize("recipe", EMBEDDED)
def test_head_does_not_differ_between_runs(recipe: str, tmp_path: Path, tiny_encoder: Path) -> None:
    heads = [
        [
            path.read_bytes()
            for path in (fit(tmp_path / name, tiny_encoder, recipe).model / "head").iterdir()
        ]
        for name in ("first", "again")
    ]
    assert heads[0] == heads[1]


@pytest.mark.parametrize("recipe", EMBEDDED)
def test_pairs_are_read_together(recipe: str, tmp_path: Path, tiny_encoder: Path) -> None:
    rows = [["fire", text, label] for text, label in messages(0, 60)]
    channels = {
        "train": as_csv(rows, ("first", "other", "label")),
        "test": as_csv(rows[:9], ("first", "other", "label")),
    }
    settings = {
        "recipe": recipe,
        "model_name": str(tiny_encoder),
        "text_column": "first",
        "text_pair_column": "other",
    }
    job = Job(make_tree(tmp_path, channels, settings))
    run(job, Stop(), World())
    same, other, swapped = load_classifier(job.model).predict(
        [("fire", rows[0][1]), ("fire", rows[1][1]), (rows[0][1], "fire")]
    )
    assert not np.allclose(same, other)
    if recipe == "logistic":
        assert not np.allclose(same, swapped)


@pytest.mark.parametrize(("normalize", "length"), [("true", True), ("false", False)])
def test_embeddings_have_length_one_if_they_are_to_be_normalized(
    normalize: str, length: bool, tmp_path: Path, tiny_encoder: Path
) -> None:
    classifier = load_classifier(fit(tmp_path, tiny_encoder, "logistic", normalize=normalize).model)
    lengths = np.linalg.norm(classifier.runtime(classifier.tokenize(["a", "b c d"])), axis=1)
    assert np.allclose(lengths, 1, atol=0.01) == length


@pytest.mark.parametrize("name", _MODULES)
def test_every_recipe_can_be_loaded(name: str) -> None:
    assert callable(load_recipe(name))
