"""Rules that look on while a job runs, and say or end what goes wrong.

They are in the spirit of the built-in rules of Amazon SageMaker Debugger, but run inside the
training process, on what the recipes report. docs/watching.md lists them.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from safetensors import safe_open

from train.data import Dataset
from train.errors import UserError

__all__ = [
    "RULES", "Finding", "Rule", "Watchers", "broken_weights", "check_weights", "table",
]  # fmt: skip

log = logging.getLogger(__name__)

REPEAT = 500
"""Steps in which a rule speaks at most once."""

PART = 65_536
"""Rows of embeddings to look at together: they may be more than the memory holds."""

FORM = (
    'none, or a JSON object such as {"overfit": "stop", "loss_not_decreasing": {"action": "log", '
    '"steps": 500}}'
)
"""What the hyperparameter `rules` may be."""


@dataclass(frozen=True)
class Finding:
    """What a rule has seen, and what it did."""

    rule: str
    action: str
    seen: str
    advice: str
    step: int | None


class Rule(BaseModel):
    """A fault that can be seen from outside, its thresholds and what to do about it."""

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]
    advice: ClassVar[str]
    """What a user can do."""

    action: str


class _OnMetrics(Rule):
    """A rule that looks at what is reported while the steps run. `stop` keeps the model so far."""

    action: Literal["none", "log", "stop"] = "log"

    def look(self, values: Mapping[str, float], step: int) -> str:
        """Return what was seen where it is a fault, else an empty text."""
        raise NotImplementedError


class _OnData(Rule):
    """A rule that looks at the rows, the features or the finished model. `fail` ends the job."""

    action: Literal["none", "log", "fail"] = "log"


class NotFinite(_OnMetrics):
    """The loss or the gradient is NaN or infinite: what follows can only be noise."""

    name = "not_finite"
    advice = "lower learning_rate, or raise warmup_steps"

    # Every step after it is paid for, and none can repair the weights.
    action: Literal["none", "log", "stop"] = "stop"

    def look(self, values: Mapping[str, float], step: int) -> str:
        return ", ".join(f"{name} is {value}" for name, value in values.items()
                         if name in ("loss", "grad_norm") and not math.isfinite(value))  # fmt: skip


class LossNotDecreasing(_OnMetrics):
    """The training loss is where it began, or went back there."""

    name = "loss_not_decreasing"
    advice = (
        "try a learning_rate that is lower or higher by a factor of three, more warmup_steps, and "
        "look whether the labels fit the texts"
    )

    steps: int = Field(200, ge=1, description="steps over which the loss is averaged")
    percent: float = Field(
        1.0, ge=0, lt=100, description="by how much the loss must be below that of the first steps"
    )
    _first: list[float] = PrivateAttr(default_factory=list)
    _last: deque[tuple[int, float]] = PrivateAttr(default_factory=deque)
    _resumed: bool | None = PrivateAttr(default=None)

    def look(self, values: Mapping[str, float], step: int) -> str:
        loss = values.get("loss")
        if loss is None or not math.isfinite(loss):
            return ""
        if self._resumed is None:  # an earlier attempt of the job saw the first steps
            self._resumed = step > self.steps
        if step <= self.steps:
            self._first.append(loss)
        self._last.append((step, loss))
        while self._last[0][0] <= step - self.steps:
            self._last.popleft()
        if self._resumed or step < 2 * self.steps:
            return ""
        first = float(np.mean(self._first))
        last = float(np.mean([loss for _, loss in self._last]))
        if last < first * (1 - self.percent / 100):
            return ""
        return (
            f"the loss was {first:.4g} over the first {self.steps} steps and is {last:.4g} "
            f"over the last {self.steps}"
        )


class ExplodingGradient(_OnMetrics):
    """The gradient is so large that its direction says little."""

    name = "exploding_gradient"
    advice = "lower learning_rate, or raise warmup_steps"

    norm: float = Field(1000.0, gt=0, description="norm of the gradient before it is clipped")

    def look(self, values: Mapping[str, float], step: int) -> str:
        norm = values.get("grad_norm", 0.0)
        return f"grad_norm is {norm:.4g}" if self.norm < norm < math.inf else ""


class VanishingGradient(_OnMetrics):
    """The gradient is so small that the weights no longer change."""

    name = "vanishing_gradient"
    advice = (
        "raise learning_rate, or end earlier: there is nothing left to learn, or the head is dead"
    )

    norm: float = Field(1e-7, gt=0, description="norm of the gradient")
    reports: int = Field(3, ge=1, description="times in a row that it must be below")
    _below: int = PrivateAttr(default=0)

    def look(self, values: Mapping[str, float], step: int) -> str:
        norm = values.get("grad_norm")
        if norm is None:
            return ""
        self._below = self._below + 1 if norm < self.norm else 0
        return f"grad_norm is {norm:.4g}" if self._below >= self.reports else ""


class Overfit(_OnMetrics):
    """The loss rises on the validation data while it falls on the training data."""

    name = "overfit"
    advice = "lower epochs, raise weight_decay, or add training rows"

    percent: float = Field(
        20.0, gt=0, description="by how much validation_loss must be above its lowest"
    )
    evaluations: int = Field(2, ge=1, description="times in a row that it must be so")
    _lowest: float = PrivateAttr(default=math.inf)
    _training: float = PrivateAttr(default=math.nan)
    _training_then: float = PrivateAttr(default=math.nan)
    _above: int = PrivateAttr(default=0)

    def look(self, values: Mapping[str, float], step: int) -> str:
        self._training = values.get("loss", self._training)
        loss = values.get("validation_loss")
        if loss is None or not math.isfinite(loss):
            return ""
        if loss < self._lowest:
            self._lowest, self._training_then = loss, self._training
        rises = loss > self._lowest * (1 + self.percent / 100)
        self._above = self._above + 1 if rises and self._training < self._training_then else 0
        if self._above < self.evaluations:
            return ""
        return (
            f"validation_loss is {loss:.4g} after a lowest of {self._lowest:.4g}, while the "
            f"training loss fell from {self._training_then:.4g} to {self._training:.4g}"
        )


class Overtraining(_OnMetrics):
    """Training goes on although the validation data has nothing more to gain."""

    name = "overtraining"
    advice = "lower epochs"

    evaluations: int = Field(5, ge=1, description="times in a row without a gain")
    percent: float = Field(
        0.1, ge=0, lt=100, description="what counts as a gain, in loss or in macro F1"
    )
    _loss: float = PrivateAttr(default=math.inf)
    _f1: float = PrivateAttr(default=-math.inf)
    _without: int = PrivateAttr(default=0)

    def look(self, values: Mapping[str, float], step: int) -> str:
        if "validation_loss" not in values:
            return ""
        loss, f1 = values["validation_loss"], values.get("validation_macro_f1", -math.inf)
        gain = self.percent / 100
        gained = loss < self._loss * (1 - gain) or f1 > self._f1 + gain * abs(self._f1)
        self._loss, self._f1 = min(self._loss, loss), max(self._f1, f1)
        self._without = 0 if gained else self._without + 1
        if self._without < self.evaluations:
            return ""
        return (
            f"{self._without} evaluations without a gain: validation_loss {loss:.4g} (lowest "
            f"{self._loss:.4g})"
        )


class ClassImbalance(_OnData):
    """One label has many times the rows of another."""

    name = "class_imbalance"
    advice = (
        "look at macro_f1 rather than accuracy, and give the rare labels more rows, or merge them"
    )

    ratio: float = Field(
        20.0, gt=1, description="rows of the commonest label for one of the rarest"
    )

    def look(self, counts: Counter[str]) -> str:
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        if many <= self.ratio * few:
            return ""
        return f"the label {most!r} has {many} rows, {least!r} has {few} ({many / few:.0f} times)"


class ConstantFeatures(_OnData):
    """The encoder says the same of every text."""

    name = "constant_features"
    advice = (
        "check that model_name is an encoder that was trained, and that texts are not all alike"
    )

    percent: float = Field(
        10.0, ge=0, lt=100, description="share of the embedding's numbers that are all but equal"
    )

    def look(self, lowest: NDArray[np.float32], highest: NDArray[np.float32], rows: int) -> str:
        scale = max(np.abs(lowest).max(), np.abs(highest).max())
        share = 100 * float((highest - lowest <= 1e-6 * scale).mean())  # of (hidden,)
        if rows < 2 or share <= self.percent:
            return ""
        return f"{share:.0f} % of the embedding's numbers are the same in all {rows} rows"


class DeadHead(_OnData):
    """The model answers every text with the same label."""

    name = "dead_head"
    advice = (
        "the model is of no use: look whether the labels fit the texts, and try more rows, more "
        "epochs or another learning_rate"
    )

    rows: int = Field(20, ge=2, description="held-out rows that are needed to tell")

    def look(self, split: str, truth: Sequence[object], predictions: Sequence[object]) -> str:
        if len(predictions) < self.rows or len(set(predictions)) > 1 or len(set(truth)) < 2:
            return ""
        return f"all {len(predictions)} rows of {split} are predicted as {predictions[0]!r}"


RULES: Mapping[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        NotFinite, LossNotDecreasing, ExplodingGradient, VanishingGradient, Overfit, Overtraining,
        ClassImbalance, ConstantFeatures, DeadHead,
    )
}  # fmt: skip


R = TypeVar("R", bound=Rule)


class Watchers:
    """The rules of one job. Add it to the listeners of its metrics."""

    def __init__(
        self, setting: str | None, stop: Callable[[str], None], leads: bool = True
    ) -> None:
        """Make the rules that the hyperparameter `rules` asks for. Only the leader's speak.

        Raises:
            UserError: it names a rule, a threshold or an action that there is not.
        """
        self.findings: list[Finding] = []
        self._rules = _parse(setting)
        self._stop = stop
        self._leads = leads
        self._spoke: dict[str, int] = {}

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        """Look at what is reported, and ask for an end of the steps where a rule is to do so."""
        for rule in self._of(_OnMetrics):
            if not (seen := rule.look(values, step)):
                continue
            if step - self._spoke.get(rule.name, -REPEAT) >= REPEAT:
                self._spoke[rule.name] = step
                self._tell(rule, seen, step)
            if rule.action == "stop":
                self._stop(f"the rule {rule.name} ({seen})")

    def look_at_rows(self, data: Dataset) -> None:
        """Look at the training rows before anything is fitted to them."""
        for rule in self._of(ClassImbalance):
            self._conclude(rule, rule.look(data.label_counts()))

    def look_at_features(self, features: NDArray[np.float32]) -> None:
        """Look at the training rows' embeddings, (rows, hidden).

        Raises:
            UserError: some are NaN or infinite, which nothing can be fitted to.
        """
        parts = [features[start : start + PART] for start in range(0, len(features), PART)]
        lowest = np.min([part.min(axis=0) for part in parts], axis=0)  # (hidden,)
        highest = np.max([part.max(axis=0) for part in parts], axis=0)
        if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
            bad = sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in parts)
            raise UserError(
                f"the encoder gives NaN or infinite numbers for {bad} of {len(features)} texts: "
                "its weights are damaged; set model_name to another one"
            )
        for rule in self._of(ConstantFeatures):
            self._conclude(rule, rule.look(lowest, highest, len(features)))

    def look_at_predictions(
        self, split: str, truth: Sequence[object], predictions: Sequence[object]
    ) -> None:
        """Look at what the finished model says of the rows of a split."""
        for rule in self._of(DeadHead):
            self._conclude(rule, rule.look(split, truth, predictions))

    def report(self) -> dict[str, object]:
        """Return what there is to keep of it in the job's evaluation."""
        return {"findings": [asdict(finding) for finding in self.findings]}

    def _of(self, kind: type[R]) -> list[R]:
        return [rule for rule in self._rules if isinstance(rule, kind)]

    def _conclude(self, rule: Rule, seen: str) -> None:
        if not seen:
            return
        self._tell(rule, seen)
        if rule.action == "fail":
            raise UserError(f"the rule {rule.name} ended the job: {seen}; {rule.advice}")

    def _tell(self, rule: Rule, seen: str, step: int | None = None) -> None:
        self.findings.append(Finding(rule.name, rule.action, seen, rule.advice, step))
        if self._leads:
            when = "" if step is None else f" at step {step}"
            thresholds = rule.model_dump(exclude={"action"}).items()
            limits = ", ".join(f"{name}={value:g}" for name, value in thresholds) or "no threshold"
            log.warning("rule %s%s: %s (%s); %s", rule.name, when, seen, limits, rule.advice)


def check_weights(model: Path) -> None:
    """Look through the tensors of a model directory.

    Raises:
        UserError: some numbers are NaN or infinite. Such a model must not be taken for a result.
    """
    if name := broken_weights(model):
        raise UserError(
            f"training gave no model: the weights {name} are NaN or infinite. Lower learning_rate, "
            "or raise warmup_steps"
        )


def broken_weights(directory: Path) -> str:
    """Return the name of a tensor below a directory that holds NaN or infinity, or nothing."""
    for path in sorted(directory.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    return str(name)
    return ""


def table() -> list[tuple[str, str, str, str, str]]:
    """Return name, meaning, thresholds, actions and the default one of every rule."""
    return [
        (
            name,
            rule.__doc__ or "",
            "; ".join(
                f"`{field}` {info.default:g}: {info.description}"
                for field, info in _thresholds(rule).items()
            ),
            _actions(rule),
            rule.model_fields["action"].default,
        )
        for name, rule in RULES.items()
    ]


def _parse(setting: str | None) -> list[Rule]:
    """Return the rules that are on."""
    if setting == "none":
        return []
    try:
        given = json.loads(setting or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise UserError(f"hyperparameter rules={setting!r:.100} is not allowed: it must be {FORM}")
    if unknown := [name for name in given if name not in RULES]:
        near = difflib.get_close_matches(unknown[0], RULES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(RULES)}"
        raise UserError(f"hyperparameter rules: there is no rule {unknown[0]}; {hint}")
    rules = (_make(name, given.get(name, {})) for name in RULES)
    return [rule for rule in rules if rule.action != "none"]


def _make(name: str, given: object) -> Rule:
    kind = RULES[name]
    try:
        return kind.model_validate({"action": given} if isinstance(given, str) else given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        allowed = ", ".join([f"action ({_actions(kind)})", *(f for f in _thresholds(kind))])
        raise UserError(
            f"hyperparameter rules: {where}={first['input']!r:.100} is not allowed "
            f"({first['msg'].lower()}); {name} has {allowed}"
        ) from None


def _actions(rule: type[Rule]) -> str:
    return ", ".join(get_args(rule.model_fields["action"].annotation))


def _thresholds(rule: type[Rule]) -> dict[str, FieldInfo]:
    return {name: field for name, field in rule.model_fields.items() if name != "action"}
