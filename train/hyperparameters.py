"""Every hyperparameter: its type, default, limits and meaning, in this one place."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from train.errors import UserError
from train.redaction import redact

__all__ = ["ALIASES", "IGNORED", "Hyperparameters", "parse", "table"]

# The names of Hugging Face's SageMaker examples and of its Trainer.
ALIASES = {
    "batch_size": "train_batch_size",
    "label_smoothing_factor": "label_smoothing",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "model_id": "model_name",
    "model_name_or_path": "model_name",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "train_batch_size",
    "save_steps": "checkpoint_steps",
    "target_column": "label_column",
}

# Names that scripts for other containers need and that have nothing to set in this one.
IGNORED = frozenset(
    {
        "eval_batch_size",
        "model_dir",
        "output_data_dir",
        "output_dir",
        "per_device_eval_batch_size",
    }
)

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: 'a JSON object like {"a label": 2.5}',
}
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _option(default: Any, description: str, *recipes: str, **limits: Any) -> Any:
    """Declare a hyperparameter of some recipes, or of all where none is named."""
    named = ", ".join(recipes) or "all"
    return Field(default, description=description, json_schema_extra={"recipes": named}, **limits)


def _parse_object(value: Any) -> Any:
    """Read a JSON object, which the platform sends as a text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_parse_object)]


class Hyperparameters(BaseModel):
    """The hyperparameters of a job, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # What to train, and on what.
    recipe: Literal["forest", "logistic", "finetune"] = _option(
        "forest", "what to train: a classifier on frozen embeddings, or the whole encoder"
    )
    model_name: str = _option(
        "all-MiniLM-L6-v2",
        "the encoder: a directory, a channel, the name of the one in the image, or a Hub id",
    )
    text_column: str | None = _option(
        None,
        "the column of the texts, or several with commas between, to be joined; found by its name "
        "if not set",
    )
    text_pair_column: str | None = _option(
        None, "the column of the second texts, where the model reads pairs"
    )
    label_column: str | None = _option(
        None, "the column of the labels; found by its name if not set"
    )
    label_separator: str | None = _option(
        None, "what stands between the labels of a row, where a row has any number of them"
    )
    encoding: str = _option("utf-8", "how the files' characters are encoded")
    validation_split: float = _option(
        0.1, "the part held out where no validation or test channel is given", gt=0, lt=1
    )
    max_length: int | None = _option(
        None, "tokens of one text, the rest is cut; the encoder's own limit if not set", ge=4
    )
    seed: int = _option(42, "the seed of everything that is random", ge=0, lt=2**32)

    class_weights: Literal["none", "balanced"] | Weights = _option(
        "none", "what a row counts, by its label; balanced: all labels the same in sum"
    )

    # Embeddings.
    pooling: Literal["auto", "mean", "cls", "max"] = _option(
        "auto",
        "how token states become one vector, if the head wants one; auto: as the encoder declares, "
        "else mean",
    )
    normalize: bool = _option(True, "scale embeddings to length 1", "forest", "logistic")

    # Fewer than three rows a leaf let the forest grow by half and gain nothing on held-out rows.
    n_estimators: int = _option(200, "trees", "forest", ge=1, le=10_000)
    max_depth: int | None = _option(None, "levels of a tree; no limit if not set", "forest", ge=1)
    min_samples_leaf: int = _option(3, "rows that a leaf holds at least", "forest", ge=1)
    max_features: Literal["sqrt", "log2"] | Annotated[float, Field(gt=0, le=1)] = _option(
        "sqrt", "features that a split looks at; a number is a fraction of them", "forest"
    )
    oob_score: bool = _option(
        False, "report oob_accuracy: on the rows that each tree has not seen", "forest"
    )

    # Embeddings of length 1 want a weaker penalty than scikit-learn's 1.0.
    C: float = _option(10.0, "inverse strength of the L2 penalty", "logistic", gt=0)
    max_iter: int = _option(1000, "iterations of the solver at most", "logistic", ge=1)

    # Fine-tuning, in the terms of Hugging Face's Trainer.
    head: Literal["linear", "pooled", "bilstm"] = _option(
        "linear",
        "what makes logits: the encoder's own linear head, one on pooled token states, or a BiLSTM "
        "over them",
        "finetune",
    )
    freeze_encoder: bool = _option(False, "train the head alone", "finetune")
    epochs: float = _option(3.0, "passes over the training texts", "finetune", gt=0)
    train_batch_size: int = _option(
        32, "texts of one batch, over all processes together", "finetune", ge=1
    )
    gradient_accumulation_steps: int = _option(
        1, "batches whose gradients add up to one step", "finetune", ge=1
    )
    learning_rate: float = _option(5e-5, "the highest of the schedule", "finetune", gt=0, lt=1)
    # Heads but the own start from nothing, and one on a frozen encoder has all the learning to do.
    head_learning_rate: float | None = _option(
        None,
        "the head's own; if not set, learning_rate for a linear head, and 0.001 for others or on a "
        "frozen encoder",
        "finetune",
        gt=0,
        lt=1,
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "polynomial", "inverse_sqrt", "constant_with_warmup", "constant"
    ] = _option("linear", "how the learning rate goes on after the warm-up", "finetune")
    warmup_steps: float = _option(
        0.1, "steps of rising learning rate; below 1 a fraction of all steps", "finetune", ge=0
    )
    weight_decay: float = _option(0.01, "AdamW's weight decay", "finetune", ge=0)
    max_grad_norm: float = _option(
        1.0, "gradients are scaled down to this norm; 0 leaves them", "finetune", ge=0
    )
    label_smoothing: float = _option(
        0.0, "the part of each target that goes to all labels", "finetune", ge=0, lt=1
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option(
        "auto", "of the arithmetic; auto: bf16 where the hardware has it; fp16 on GPUs", "finetune"
    )
    eval_steps: int | None = _option(
        None, "steps between two looks at the validation rows; an epoch if not set",
        "finetune", ge=1,
    )  # fmt: skip
    metric_for_best_model: Literal[
        "validation_loss", "validation_accuracy", "validation_macro_f1"
    ] = _option("validation_macro_f1", "what the model to keep is the best in", "finetune")
    early_stopping_patience: int = _option(
        0, "end after so many looks at the validation rows without a better one; 0: never",
        "finetune", ge=0,
    )  # fmt: skip

    checkpoint_steps: int | None = _option(None, "steps between two checkpoints", "finetune", ge=1)
    checkpoint_minutes: float = _option(5.0, "minutes between two checkpoints", "finetune", gt=0)

    int8: bool = _option(
        False,
        "also write the encoder in int8 for CPUs, which serve runs where it answers as fp32 does",
    )

    # Watching.
    rules: str | None = _option(
        None,
        "what rules look on and what they do (docs/watching.md): none, or a JSON object of actions "
        "and thresholds; if not set all of them, with their defaults",
    )

    def describe(self) -> str:
        """Return what the recipe looks at as `name=value, …`."""
        values = {name: getattr(self, name) for name in type(self).model_fields if self._uses(name)}
        return ", ".join(f"{name}={redact(name, _show(value))}" for name, value in values.items())

    def unused(self) -> list[str]:
        """Return the names that were set although the recipe does not look at them."""
        return sorted(name for name in self.model_fields_set if not self._uses(name))

    def _uses(self, name: str) -> bool:
        recipes = _recipes(type(self).model_fields[name])
        return recipes == "all" or self.recipe in recipes.split(", ")


def parse(raw: Mapping[str, Any]) -> Hyperparameters:
    """Validate the content of `hyperparameters.json`.

    Raises:
        UserError: with a line for every name or value that is wrong.
    """
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, value in raw.items():
        plain = name.replace("-", "_")
        if plain.startswith(("sagemaker_", "_")) or plain in IGNORED:
            continue
        field = ALIASES.get(plain, plain)
        if field in given:
            raise UserError(f"hyperparameter {name}: {given[field]} sets the same; give one")
        given[field] = name
        if (unquoted := _unquote(value)) is not None:
            values[field] = unquoted
    try:
        return Hyperparameters(**values)
    except ValidationError as error:
        first: dict[str, ErrorDetails] = {}  # of each hyperparameter: a union has one each member
        for item in error.errors():
            first.setdefault(str(item["loc"][0]), item)
        raise UserError(
            "\n".join(_explain(item, given[name]) for name, item in first.items())
        ) from None


def table() -> list[tuple[str, str, str, str, str]]:
    """Return name, default, what is allowed, recipes and meaning of every hyperparameter."""
    rows = []
    for name, field in Hyperparameters.model_fields.items():
        default, allowed = _show(field.default), _allowed(field.annotation, field.metadata)
        rows.append((name, default, allowed, _recipes(field), field.description or ""))
    return rows


def _recipes(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["recipes"])


def _unquote(value: Any) -> Any:
    """Undo what senders do to a value: SDK v2 JSON-encodes it, others use `str()`."""
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return None if value in ("", "None", "null") else value


def _explain(error: ErrorDetails, given: str) -> str:
    """Say what is wrong with the hyperparameter that the user calls `given`."""
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        known = sorted({*Hyperparameters.model_fields, *ALIASES})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"unknown hyperparameter {given}: {hint}"
    field = Hyperparameters.model_fields[name]
    allowed = _allowed(field.annotation, field.metadata)
    value = redact(given, repr(error["input"]))
    return f"hyperparameter {given}={value:.100} is not allowed: it must be {allowed}"


def _allowed(kind: Any, limits: Sequence[Any] = ()) -> str:
    """Say in words what a type, with these limits, allows."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is Annotated:
        kind, field = get_args(kind)
        return _allowed(kind, getattr(field, "metadata", ()))
    if get_origin(kind) is dict:
        return _KINDS[dict]
    if options := get_args(kind):
        return " or ".join(_allowed(option, limits) for option in options if option is not NoneType)
    bounds = [
        f"{word} {_show(getattr(item, key))}"
        for item in limits
        for key, word in _LIMITS.items()
        if getattr(item, key, None) is not None
    ]
    return _KINDS[kind] + (f", {' and '.join(bounds)}" if bounds else "")


def _show(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
