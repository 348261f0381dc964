from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.trees import as_csv, make_tree, messages
from textmodel.classifier import load_classifier
from train.data import Dataset
from train.errors import UserError
from train.job import Job
from train.stopping import Stop
from train.watchers import REPEAT, RULES, Watchers, check_weights, table
from train.worker import run
from train.world import World

ROOT = Path(__file__).parents[2]
NAN = math.nan

Stream = Iterable[tuple[int, Mapping[str, float]]]


def watch(stream: Stream, rules: str | None = None) -> tuple[list[str], str]:
    """Return the rules that fired on a stream of metrics, and the stop that they asked for."""
    stop = Stop()
    watchers = Watchers(rules, stop.request)
    for step, values in stream:
        watchers(values, step)
    return [finding.rule for finding in watchers.findings], stop.requested


def every(steps: int, until: int, values: Callable[[int], dict[str, float]]) -> Stream:
    return [(step, values(step)) for step in range(steps, until + 1, steps)]


def epochs(*evaluations: tuple[float, float, float]) -> Stream:
    """Return epochs of training loss, validation loss and validation macro F1."""
    stream: list[tuple[int, Mapping[str, float]]] = []
    for number, (loss, validation, f1) in enumerate(evaluations):
        looked = {"validation_loss": validation, "validation_macro_f1": f1}
        stream += [(number * 100 + 50, {"loss": loss, "grad_norm": 2.0})]
        stream += [(number * 100 + 100, looked)]
    return stream


def rows(**counts: int) -> Dataset:
    labels = [(label,) for label, count in counts.items() for _ in range(count)]
    return Dataset(["a text"] * len(labels), labels)


FAULTS: dict[str, Stream] = {
    "loss_not_decreasing": every(10, 400, lambda step: {"loss": 0.69 + 0.02 * math.sin(step)}),
    "exploding_gradient": [(10, {"loss": 1.0, "grad_norm": 1001.0})],
    "vanishing_gradient": every(10, 30, lambda step: {"loss": 0.7, "grad_norm": 0.0}),
    "overfit": epochs((0.6, 0.5, 0.7), (0.4, 0.61, 0.7), (0.2, 0.65, 0.71)),
    "overtraining": epochs((0.6, 0.5, 0.7), *[(0.5, 0.55, 0.7)] * 5),
    "not_finite": [(10, {"loss": 0.5, "grad_norm": NAN})],
}

HEALTHY: dict[str, Stream] = {
    "a loss that falls": every(10, 2000, lambda step: {"loss": 0.7 * 0.999**step, "grad_norm": 3}),
    "a loss that levels off": every(10, 5000, lambda step: {"loss": 0.3 + 0.7 * 0.99**step}),
    "a resumed run that has little left": every(
        1000, 9000, lambda step: {"loss": 0.01, "grad_norm": 0.01}
    ),
    "a run of a few steps": every(10, 390, lambda step: {"loss": 0.69}),
    "a large batch now and then": [(10, {"grad_norm": 400.0}), (20, {"grad_norm": 3.0})],
    "a gradient that is small once": [(10, {"grad_norm": 0.0}), (20, {"grad_norm": 0.5})],
    "a validation loss that rises a little at the end": epochs(
        (0.6, 0.45, 0.78), (0.4, 0.42, 0.82), (0.2, 0.48, 0.83)
    ),
    "a loss that rises on both sides": epochs((0.4, 0.5, 0.7), (0.5, 0.8, 0.6), (0.6, 0.9, 0.5)),
    "an F1 that goes on rising": epochs(
        *[(0.5 / (number + 1), 0.5, 0.5 + number / 50) for number in range(12)]
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rule_sees_its_fault_and_no_other_does(name: str) -> None:
    assert watch(FAULTS[name])[0] == [name]


@pytest.mark.parametrize("name", HEALTHY)
def test_no_rule_disturbs_a_healthy_run(name: str) -> None:
    assert watch(HEALTHY[name]) == ([], "")


@pytest.mark.parametrize("name", FAULTS)
def test_rule_that_shall_stop_asks_for_it(name: str) -> None:
    _, stopped = watch(FAULTS[name], f'{{"{name}": "stop"}}')
    assert stopped.startswith(f"the rule {name} (")


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"not_finite"}))
def test_by_default_nothing_but_nan_stops_a_job(name: str) -> None:
    assert not watch(FAULTS[name])[1]


def test_nan_stops_a_job_by_default() -> None:
    assert watch(FAULTS["not_finite"])[1] == "the rule not_finite (grad_norm is nan)"
    assert not watch(FAULTS["not_finite"], '{"not_finite": "log"}')[1]


@pytest.mark.parametrize("rules", ["none", '{"exploding_gradient": "none"}'])
def test_rules_can_be_turned_off(rules: str) -> None:
    assert watch(FAULTS["exploding_gradient"], rules) == ([], "")


def test_thresholds_can_be_set() -> None:
    stream = [(10, {"grad_norm": 50.0})]
    rules = '{"exploding_gradient": {"action": "stop", "norm": 40}}'
    assert watch(stream, rules)[1] == "the rule exploding_gradient (grad_norm is 50)"


def test_warning_says_what_was_seen_its_threshold_and_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch(FAULTS["exploding_gradient"])
    assert caplog.messages == [
        "rule exploding_gradient at step 10: grad_norm is 1001 (norm=1000); lower learning_rate, "
        "or raise warmup_steps"
    ]


def test_rule_repeats_itself_only_after_many_steps() -> None:
    stream = every(10, 2 * REPEAT + 10, lambda step: {"grad_norm": 1e6})
    assert len(watch(stream)[0]) == 3


def test_only_the_leader_speaks(caplog: pytest.LogCaptureFixture) -> None:
    watchers = Watchers(None, Stop().request, leads=False)
    watchers({"grad_norm": 1e6}, 1)
    assert not caplog.messages


def test_labels_of_very_different_frequency_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    Watchers(None, Stop().request).look_at_rows(rows(often=100, sometimes=10, seldom=4))
    assert "rule class_imbalance: the label 'often' has 100 rows, 'seldom' has 4 (25 times)" in (
        caplog.text
    )


def test_labels_of_like_frequency_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    Watchers(None, Stop().request).look_at_rows(rows(often=100, seldom=5))
    assert not caplog.messages


def test_fault_of_the_data_can_end_the_job() -> None:
    watchers = Watchers('{"class_imbalance": {"action": "fail", "ratio": 2}}', Stop().request)
    with pytest.raises(UserError, match="the rule class_imbalance ended the job: the label 'a'"):
        watchers.look_at_rows(rows(a=5, b=2))


def test_features_that_are_the_same_for_all_texts_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    features = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    Watchers(None, Stop().request).look_at_features(features)
    assert not caplog.messages
    features[:, :2] = 0.5
    Watchers(None, Stop().request).look_at_features(features)
    assert "25 % of the embedding's numbers are the same in all 50 rows" in caplog.text


@pytest.mark.parametrize("rules", [None, "none"])
def test_nothing_is_fitted_to_features_that_are_nan(rules: str | None) -> None:
    features = np.ones((4, 3), np.float32)
    features[2, 1] = NAN
    with pytest.raises(UserError, match="NaN or infinite numbers for 1 of 4 texts"):
        Watchers(rules, Stop().request).look_at_features(features)


@pytest.mark.parametrize(
    ("truth", "predictions", "dead"),
    [
        (["a", "b"] * 10, ["a"] * 20, True),
        (["a", "b"] * 10, ["a"] * 19 + ["b"], False),
        (["a", "b"] * 4, ["a"] * 8, False),
        (["a"] * 20, ["a"] * 20, False),
    ],
)
def test_head_that_knows_one_answer_is_told_of(
    truth: list[str], predictions: list[str], dead: bool
) -> None:
    watchers = Watchers(None, Stop().request)
    watchers.look_at_predictions("test", truth, predictions)
    assert [finding.rule for finding in watchers.findings] == ["dead_head"] * dead


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("all", "rules='all' is not allowed: it must be none, or a JSON object such as"),
        ("[]", "it must be none, or a JSON object"),
        ('{"overfitt": "stop"}', "there is no rule overfitt; did you mean overfit?"),
        ('{"zzz": "stop"}', "there is no rule zzz; known are not_finite, "),
        ('{"overfit": "end"}', "overfit.action='end' is not allowed .*none, log, stop"),
        ('{"overfit": {"steps": 5}}', "overfit.steps=5 is not allowed .*percent, evaluations"),
        ('{"overfit": {"percent": -5}}', "overfit.percent=-5 is not allowed .*greater than 0"),
        ('{"overfit": 5}', "overfit=5 is not allowed"),
        ('{"dead_head": "stop"}', r"dead_head has action \(none, log, fail\), rows"),
    ],
)
def test_rules_that_there_are_not_are_an_error_that_lists_them(rules: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Watchers(rules, Stop().request)


def test_weights_that_are_nan_are_no_result(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(3), "ids": torch.ones(3, dtype=torch.int64)}, tmp_path / "a.safetensors"
    )
    check_weights(tmp_path)
    (tmp_path / "head").mkdir()
    save_file({"b.weight": torch.tensor([1.0, math.inf])}, tmp_path / "head/b.safetensors")
    with pytest.raises(UserError, match=r"training gave no model: the weights b\.weight are NaN"):
        check_weights(tmp_path)


@pytest.mark.parametrize("fixture", ["forest_model", "logistic_model", "finetuned_model"])
def test_healthy_job_raises_no_alarm(fixture: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(fixture)
    evaluation = json.loads((root / "output/data/evaluation.json").read_text())
    assert evaluation["watching"] == {"findings": [], "stopped": ""}


def test_rule_that_stops_a_job_leaves_a_measured_model(
    tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = '{"overtraining": {"action": "stop", "evaluations": 1, "percent": 99}}'
    job = finetune(tmp_path, tiny_encoder, epochs="30", rules=rules)
    reason = "the rule overtraining (1 evaluations without a gain"
    assert re.search(rf"stopped \({re.escape(reason)}.*\) at step 1\d of 150: ", caplog.text)
    evaluation = json.loads((job.output_data / "evaluation.json").read_text())
    assert evaluation["watching"]["stopped"].startswith(reason)
    assert evaluation["watching"]["findings"][0]["rule"] == "overtraining"
    assert evaluation["test"]["rows"] == 20
    scores = load_classifier(job.model).predict(["a flood"])
    assert scores.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rules", ["", "none"])
@pytest.mark.parametrize("recipe", ["finetune", "logistic"])
def test_job_whose_weights_are_nan_has_no_model(
    recipe: str, rules: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("LayerNorm.weight"))
    tensors[name][0] = NAN
    save_file(tensors, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="NaN or infinite"):
        finetune(tmp_path / "ml", encoder, recipe=recipe, rules=rules)
    assert not (tmp_path / "ml/model/optml.json").exists()
    assert not list((tmp_path / "ml/checkpoints").glob("*/step-*"))


def finetune(root: Path, encoder: Path, **more: str) -> Job:
    channels = {
        "train": as_csv(messages(0, 40)),
        "validation": as_csv(messages(40, 60)),
        "test": as_csv(messages(60, 80)),
    }
    settings = {"recipe": "finetune", "model_name": str(encoder), "train_batch_size": "8"} | more
    job = Job(make_tree(root, channels, settings))
    run(job, Stop(), World())
    return job


def test_documentation_has_every_rule() -> None:
    lines = (ROOT / "docs/watching.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("| `")]
    assert shown == [f"| `{name}` | {' | '.join(rest)} |" for name, *rest in table()]
    assert len(shown) == len(RULES)
