"""The options of fine-tuning, its checkpoints and its stops, in this process."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from tests.textmodel.encoders import make_encoder
from tests.train.trees import files_of, messages
from textmodel.artifact import Artifact
from textmodel.classifier import load_classifier
from textmodel.hardware import Choice
from textmodel.tokenizer import pad
from train.checkpoints import Checkpoints
from train.data import Dataset
from train.errors import Stopped, UserError
from train.hyperparameters import parse
from train.metrics import Metrics
from train.profiler import Profiler
from train.recipes.finetune import fit
from train.recipes.fitting import UNKNOWN, Fitting
from train.recipes.loss import Loss
from train.recipes.trainer import Classifier, Trainer, Watch
from train.stopping import Stop
from train.watchers import Watchers
from train.world import World

ROWS = messages(0, 64)


def dataset(rows: Sequence[Sequence[str]]) -> Dataset:
    return Dataset([text for text, _ in rows], [(label,) for _, label in rows])


TRAIN, VALIDATION = dataset(ROWS[:48]), dataset(ROWS[48:])
STEPS = 12
"""Of two epochs of TRAIN in batches of eight."""


class Attempt:
    """One start of a job: what it was given, and what it reported."""

    def __init__(self, root: Path, encoder: Path, **settings: Any) -> None:
        self.root, self.model = root, root / "model"
        self.encoder = encoder
        self.settings = {
            "recipe": "finetune", "model_name": "tiny", "train_batch_size": "8", "epochs": "2",
        } | settings  # fmt: skip
        self.stop = Stop()
        self.reported: list[tuple[int, dict[str, float]]] = []

    def run(
        self, train: Dataset = TRAIN, validation: Dataset | None = VALIDATION, kept: bool = True
    ) -> dict[str, Any]:
        """Fit, and return the tensors of the model."""
        self.model.mkdir(parents=True, exist_ok=True)
        metrics = Metrics()
        metrics.listeners.append(lambda values, step: self.reported.append((step, dict(values))))
        settings = parse(self.settings)
        fitting = Fitting(
            train=train,
            validation=validation,
            labels=tuple(sorted(train.label_counts())),
            encoder=self.encoder,
            settings=settings,
            directory=self.model,
            checkpoints=Checkpoints(self.root / "checkpoints", "job", kept),
            metrics=metrics,
            watchers=Watchers(settings.rules, self.stop.request, True),
            profiler=Profiler(),
            stop=self.stop,
            world=World(),
        )
        self.artifact = Artifact(self.model, fit(fitting)).seal()
        return load_file(self.model / "model.safetensors")

    def values(self, name: str) -> dict[int, float]:
        """Return what was reported under a name, by step."""
        return {step: values[name] for step, values in self.reported if name in values}

    @property
    def checkpoints(self) -> list[int]:
        found = (self.root / "checkpoints/job").glob("step-*")
        return sorted(int(path.name.removeprefix("step-")) for path in found)


class Killed(Exception):
    """Stands for SIGKILL: nothing is tidied by who is hit."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them only wait for each other with so small an encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.recipes.finetune.cpu_count", lambda: Choice("cpus", 1, "of a test"))
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder without dropout."""
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_encoder(tmp_path_factory.mktemp("steady"), **none)


@pytest.fixture
def attempt(tmp_path: Path, encoder: Path) -> Attempt:
    return Attempt(tmp_path, encoder)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def hit(
    monkeypatch: pytest.MonkeyPatch, step: int, attempt: Attempt | None, when: str = "on_step_begin"
) -> None:
    """Stop an attempt, or kill whatever runs where there is None, after so many steps."""
    before = getattr(Watch, when)

    def event(self: Watch, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            if attempt is None:
                raise Killed
            attempt.stop.request("of a test")
        return before(self, args, state, control, **kwargs)

    monkeypatch.setattr(Watch, when, event)


def killed(attempt: Attempt, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        hit(patch, step, None)
        with pytest.raises(Killed):
            attempt.run()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Attempt:
    attempt = Attempt(tmp_path_factory.mktemp("whole"), encoder, **INTERRUPTED)
    attempt.run()
    return attempt


INTERRUPTED = {"eval_steps": "4", "checkpoint_steps": "3", "learning_rate": "1e-3"}


# Options.


@pytest.mark.parametrize("head", ["linear", "pooled", "bilstm"])
def test_frozen_encoder_stays_and_its_head_learns(head: str, tmp_path: Path, encoder: Path) -> None:
    after = Attempt(tmp_path, encoder, freeze_encoder="true", head=head).run()
    before = load_file(encoder / "model.safetensors")
    body = {name: value for name, value in before.items() if not name.startswith("pooler")}
    prefix = "bert." if head == "linear" else ""
    assert all(np.array_equal(after[prefix + name], value) for name, value in body.items())
    if head == "linear":
        assert not np.array_equal(after["bert.pooler.dense.weight"], before["pooler.dense.weight"])


@pytest.mark.parametrize("head", ["pooled", "bilstm"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_head_of_its_own_is_answered_by_the_model_directory(
    family: str, head: str, tmp_path: Path
) -> None:
    source = make_encoder(tmp_path / "encoder", family)
    attempt = Attempt(tmp_path, source, head=head, epochs="1")
    attempt.run(validation=None)
    assert attempt.artifact.manifest.pooling == {"pooled": "mean", "bilstm": "bilstm"}[head]
    classifier = load_classifier(attempt.model, precision="fp32")
    together = classifier.predict(TRAIN.texts)
    alone = np.concatenate([classifier.predict([text]) for text in TRAIN.texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert classifier.predict(["a", "b"]).shape == (2, 2)


@pytest.mark.parametrize("head", ["pooled", "bilstm"])
def test_head_of_its_own_learns_its_training_rows(head: str, tmp_path: Path, encoder: Path) -> None:
    attempt = Attempt(tmp_path, encoder, head=head, epochs="40", learning_rate="1e-3")
    attempt.run(validation=None)
    classifier = load_classifier(attempt.model)
    answers = [(classifier.labels[i],) for i in classifier.predict(TRAIN.texts).argmax(1)]
    assert sum(map(operator.eq, answers, TRAIN.labels)) > 0.9 * len(TRAIN)


def test_accumulated_batches_make_the_step_of_a_large_one(tmp_path: Path, steady: Path) -> None:
    options = {"precision": "fp32", "class_weights": "balanced"}
    large = Attempt(tmp_path / "large", steady, train_batch_size="16", **options)
    small = Attempt(
        tmp_path / "small", steady, train_batch_size="4", gradient_accumulation_steps="4", **options
    )
    one, other = large.run(), small.run()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=2e-5)
    assert large.values("loss").keys() == small.values("loss").keys() == {6}


def test_head_has_a_learning_rate_of_its_own(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[dict[str, float]] = []
    create = Trainer.create_optimizer

    def noting(self: Trainer, model: Any = None) -> Any:
        optimizer = create(self, model)
        names = {id(value): name for name, value in self.classifier.named_parameters()}
        rates.append({
            names[id(value)]: group["lr"] for group in optimizer.param_groups
            for value in group["params"]
        })  # fmt: skip
        return optimizer

    monkeypatch.setattr(Trainer, "create_optimizer", noting)
    Attempt(tmp_path, encoder, head_learning_rate="0.01", learning_rate="1e-4").run()
    heads = {name for name, rate in rates[0].items() if rate == 0.01}
    assert heads == {
        f"encoder.model.{layer}.{part}"
        for layer in ("classifier", "bert.pooler.dense") for part in ("weight", "bias")
    }  # fmt: skip
    assert {rate for name, rate in rates[0].items() if name not in heads} == {1e-4}


def test_learning_rate_warms_up_and_follows_its_schedule(tmp_path: Path, encoder: Path) -> None:
    rates = {}
    for kind in ("linear", "constant", "cosine"):
        attempt = Attempt(
            tmp_path / kind, encoder, epochs="18", lr_scheduler_type=kind, warmup_steps="0",
            learning_rate="1e-3",
        )  # fmt: skip
        attempt.run()
        rates[kind] = attempt.values("learning_rate")[50]
    assert rates["constant"] == 1e-3
    assert rates["linear"] == pytest.approx(1e-3 * (108 - 49) / 108)
    assert rates["cosine"] != rates["linear"]


def test_gradients_are_scaled_down_to_their_norm(tmp_path: Path, steady: Path) -> None:
    start = load_file(steady / "model.safetensors")["embeddings.word_embeddings.weight"]

    def moved(norm: str) -> float:
        after = Attempt(tmp_path / norm, steady, max_grad_norm=norm, weight_decay="0").run()
        return float(np.abs(after["bert.embeddings.word_embeddings.weight"] - start).max())

    assert moved("1e-12") < 1e-3 * moved("1")


def test_fp16_needs_a_gpu(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(UserError, match="precision=fp16 needs a GPU; set bf16, fp32 or auto"):
        Attempt(tmp_path, encoder, precision="fp16").run()


def test_precision_is_told_with_its_reason(
    tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Attempt(tmp_path, encoder, precision="fp32", epochs="0.1").run()
    assert "precision=fp32 (as requested)" in caplog.text


def test_cut_texts_are_counted(
    tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = Attempt(tmp_path, encoder, max_length="8", epochs="0.1")
    attempt.run()
    assert "texts are longer than max_length=8 tokens and were cut" in caplog.text
    assert attempt.artifact.manifest.max_length == 8


def test_weights_of_unknown_labels_are_refused(tmp_path: Path, encoder: Path) -> None:
    attempt = Attempt(tmp_path, encoder, class_weights='{"disaster": 2, "floods": 3}')
    with pytest.raises(UserError, match="class_weights: 'floods' are no labels"):
        attempt.run()


# The loss.

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.3, 0.1, 0.2]])


def test_loss_is_cross_entropy() -> None:
    labels = torch.tensor([0, 2])
    expected = functional.cross_entropy(LOGITS, labels, label_smoothing=0.1)
    loss = Loss(None, 0.1)({"logits": LOGITS}, labels)
    torch.testing.assert_close(loss, expected)


def test_loss_of_many_labels_is_one_decision_a_label() -> None:
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    expected = functional.binary_cross_entropy_with_logits(LOGITS, labels)
    torch.testing.assert_close(Loss(None, 0)({"logits": LOGITS}, labels), expected)


def test_weights_count_in_the_loss() -> None:
    labels, weights = torch.tensor([0, 2]), np.array([3, 1, 0.5], np.float32)
    each = functional.cross_entropy(LOGITS, labels, reduction="none")
    expected = (3 * each[0] + 0.5 * each[1]) / 2
    torch.testing.assert_close(Loss(weights, 0)({"logits": LOGITS}, labels), expected)


def test_unknown_labels_do_not_count_in_the_loss() -> None:
    known = Loss(None, 0)({"logits": LOGITS[:1]}, torch.tensor([0]))
    both = Loss(None, 0)({"logits": LOGITS}, torch.tensor([0, UNKNOWN]))
    torch.testing.assert_close(both, known)
    nothing = Loss(None, 0)({"logits": LOGITS}, torch.tensor([UNKNOWN, UNKNOWN]))
    assert float(nothing) == 0


# Pairs and many labels.


def test_pairs_reach_the_encoder_as_they_will_when_served(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[Any] = [(text, f"about {label}") for text, label in ROWS[:48]]
    seen: list[dict[str, torch.Tensor]] = []
    forward = Classifier.forward

    def noting(self: Classifier, **arrays: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training:
            seen.append(arrays)
        return forward(self, **arrays)

    monkeypatch.setattr(Classifier, "forward", noting)
    attempt = Attempt(tmp_path, encoder, epochs="1")
    attempt.run(Dataset(pairs, TRAIN.labels), None)
    classifier = load_classifier(attempt.model)
    served = {tuple(tokens.ids): tokens for tokens in classifier.tokenize(pairs)}
    assert len(seen) == STEPS / 2
    for arrays in seen:
        lengths = arrays["attention_mask"].sum(1).tolist()
        rows = [
            tuple(ids[:length].tolist())
            for ids, length in zip(arrays["input_ids"], lengths, strict=True)
        ]
        expected = pad([served[row] for row in rows], classifier.tokenize.pad_id)
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array)
        assert arrays["token_type_ids"].any()
    assert classifier.predict(pairs[:2]).shape == (2, 2)


def test_a_text_may_have_any_number_of_labels(tmp_path: Path, encoder: Path) -> None:
    topics = [("fire",), ("fire", "flood"), (), ("storm", "flood")]
    labels = [topics[number % 4] for number in range(48)]
    texts = [f"{' '.join(each) or 'nothing'} in town {n}" for n, each in enumerate(labels)]
    data = Dataset(texts, labels, multi_label=True)
    attempt = Attempt(
        tmp_path, encoder, epochs="60", learning_rate="1e-3", class_weights="balanced"
    )
    attempt.run(data, data)
    assert attempt.artifact.manifest.multi_label
    classifier = load_classifier(attempt.model)
    found = classifier.predict(texts) > 0.5
    truth = [[label in each for label in ("fire", "flood", "storm")] for each in labels]
    assert np.mean(found == truth) > 0.95
    assert max(attempt.values("validation_accuracy").values()) > 0.9
    config = json.loads((attempt.model / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


# What is reported, and which model is kept.


def test_metrics_are_reported_with_their_steps(uninterrupted: Attempt) -> None:
    assert uninterrupted.values("loss").keys() == {STEPS}
    assert uninterrupted.values("grad_norm").keys() == {STEPS}
    assert uninterrupted.values("learning_rate").keys() == {STEPS}
    for name in ("validation_loss", "validation_accuracy", "validation_macro_f1"):
        assert list(uninterrupted.values(name)) == [4, 8, 12]


def test_validation_rows_are_looked_at_each_epoch(attempt: Attempt) -> None:
    attempt.settings["epochs"] = "2.5"
    attempt.run()
    assert list(attempt.values("validation_loss")) == [6, 12, 15]


def test_labels_that_training_rows_lack_are_always_wrong(attempt: Attempt) -> None:
    attempt.run(validation=dataset([(text, "unheard of") for text, _ in ROWS[48:]]))
    assert set(attempt.values("validation_accuracy").values()) == {0.0}


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("kept", [True, False])
def test_best_model_is_the_one_that_is_kept(
    metric: str, kept: bool, tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"validation_{metric}"
    options = {"learning_rate": "3e-3", "epochs": "6", "metric_for_best_model": name}
    attempt = Attempt(tmp_path / "best", encoder, **options)
    tensors = attempt.run(kept=kept)
    values = attempt.values(name)
    best = (min if metric == "loss" else max)(values, key=lambda step: values[step])
    assert f"the model of step {best} is kept: {name}=" in caplog.text
    assert best < 36  # or this would show nothing
    shorter = Attempt(tmp_path / "shorter", encoder, **options)
    with pytest.MonkeyPatch.context() as patch:
        hit(patch, best, shorter)
        assert not equal(tensors, shorter.run(validation=None)) or best == 36


def test_training_ends_after_so_many_looks_in_vain(
    tmp_path: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {
        "early_stopping_patience": "2", "eval_steps": "2", "epochs": "50", "learning_rate": "1e-9",
        "metric_for_best_model": "validation_accuracy",
    }  # fmt: skip
    first = Attempt(tmp_path, encoder, **settings)
    tensors = first.run()
    assert list(first.values("validation_accuracy")) == [2, 4, 6]
    again = Attempt(tmp_path, encoder, **settings)
    assert equal(again.run(), tensors)
    assert again.reported == []
    assert "the checkpoint of step 6 is the end of this training" in caplog.text


def test_early_stopping_needs_validation_rows(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(UserError, match="early_stopping_patience needs rows to look at"):
        Attempt(tmp_path, encoder, early_stopping_patience="1").run(validation=None)


# Checkpoints.


def test_stopped_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, encoder: Path, uninterrupted: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 9):
        attempt = Attempt(tmp_path, encoder, **INTERRUPTED)
        with pytest.MonkeyPatch.context() as patch:
            hit(patch, step, attempt)
            attempt.run()
        assert f"stopped (of a test) at step {step + 1} of {STEPS}" in caplog.text
        assert load_classifier(attempt.model).predict(["fire"]).shape == (1, 2)
    last = Attempt(tmp_path, encoder, **INTERRUPTED)
    assert equal(last.run(), load_file(uninterrupted.model / "model.safetensors"))
    assert f"going on from the checkpoint of step 10 of {STEPS}" in caplog.text
    for name in ("validation_loss", "validation_accuracy", "validation_macro_f1"):
        assert last.values(name)[STEPS] == uninterrupted.values(name)[STEPS]


def test_killed_training_goes_on_from_its_newest_checkpoint(
    tmp_path: Path, encoder: Path, uninterrupted: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    for step, before in ((2, 0), (5, 4), (11, 9)):
        attempt = Attempt(tmp_path, encoder, **INTERRUPTED)
        killed(attempt, step)
        assert max([0, *attempt.checkpoints]) == before
    tensors = Attempt(tmp_path, encoder, **INTERRUPTED).run()
    assert "going on from the checkpoint of step 9" in caplog.text
    assert equal(tensors, load_file(uninterrupted.model / "model.safetensors"))


@pytest.mark.parametrize("step", [8, STEPS])
def test_look_at_the_validation_rows_that_a_stop_cut_short_is_made_up_for(
    step: int, tmp_path: Path, encoder: Path, uninterrupted: Attempt
) -> None:
    first = Attempt(tmp_path, encoder, **INTERRUPTED)
    with pytest.MonkeyPatch.context() as patch:
        hit(patch, step, first, "on_prediction_step")
        first.run()
    assert max(first.values("validation_loss")) == step - 4
    assert max(first.checkpoints) == step
    second = Attempt(tmp_path, encoder, **INTERRUPTED)
    assert equal(second.run(), load_file(uninterrupted.model / "model.safetensors"))
    expected = uninterrupted.values("validation_loss")
    assert second.values("validation_loss") == {at: expected[at] for at in expected if at >= step}


def test_damaged_checkpoint_is_skipped_and_named(
    tmp_path: Path, encoder: Path, uninterrupted: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = Attempt(tmp_path, encoder, **INTERRUPTED)
    killed(attempt, 7)
    newest = tmp_path / "checkpoints/job/step-000006"
    (newest / "optimizer.pt").write_bytes(b"damaged")
    tensors = Attempt(tmp_path, encoder, **INTERRUPTED).run()
    assert "checkpoint step-000006 is skipped: optimizer.pt has changed" in caplog.text
    assert "going on from the checkpoint of step 4" in caplog.text
    assert equal(tensors, load_file(uninterrupted.model / "model.safetensors"))


def test_finished_training_finishes_at_once_with_the_same_model(
    uninterrupted: Attempt, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_file(uninterrupted.model / "model.safetensors")
    hit(monkeypatch, STEPS, None)  # where a step begins
    again = Attempt(uninterrupted.root, encoder, **INTERRUPTED)
    assert equal(again.run(), before)
    assert again.reported == []


def test_half_an_epoch_is_finished_too(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = Attempt(tmp_path, encoder, epochs="0.5").run()
    hit(monkeypatch, 3, None)
    assert equal(Attempt(tmp_path, encoder, epochs="0.5").run(), tensors)


def test_newest_checkpoints_and_the_best_are_kept_without_pickled_arguments(
    tmp_path: Path, encoder: Path
) -> None:
    attempt = Attempt(tmp_path, encoder, checkpoint_steps="1", eval_steps="3", learning_rate="3e-3")
    attempt.run()
    values = attempt.values("validation_macro_f1")
    best = max(values, key=lambda step: values[step])
    assert attempt.checkpoints == sorted({best, STEPS - 1, STEPS})
    assert files_of(tmp_path / "checkpoints/job/step-000012") == {
        "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "sha256.json",
    }  # fmt: skip
    assert not list((tmp_path / "checkpoints/job").glob(".*"))


def test_minutes_make_checkpoints_too(tmp_path: Path, encoder: Path) -> None:
    attempt = Attempt(tmp_path, encoder, checkpoint_minutes="1e-9")
    attempt.run(validation=None)
    assert attempt.checkpoints == [STEPS - 1, STEPS]


def test_stop_within_the_first_step_leaves_no_model(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(tmp_path, encoder, gradient_accumulation_steps="4", checkpoint_steps="1")
    hit(monkeypatch, 0, attempt)
    with pytest.raises(Stopped, match="of a test"):
        attempt.run()
    assert not attempt.checkpoints
    assert not (attempt.model / "model.safetensors").exists()


def test_training_goes_on_without_checkpoints(attempt: Attempt) -> None:
    attempt.settings["checkpoint_steps"] = "1"
    attempt.run(kept=False)
    assert not (attempt.root / "checkpoints").exists()
    assert load_classifier(attempt.model).predict(["fire"]).shape == (1, 2)
