"""Hugging Face's Trainer, made to end at any moment and to go on as if it never had."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader, Sampler
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import IntervalStrategy

from textmodel.encoder import Encoder
from textmodel.tokenizer import Tokens, pad
from train.metrics import Metrics
from train.profiler import Profiler
from train.progress import progress
from train.recipes.loss import Loss
from train.recipes.snapshots import Snapshots
from train.stopping import Stop
from train.watchers import broken_weights
from train.world import World, peer_lost

__all__ = ["Classifier", "Row", "Trainer", "Watch", "is_done", "unmeasured"]

log = logging.getLogger(__name__)

Row = tuple[Tokens, NDArray[Any]]
"""A text and its target: an index, or ones and zeros by label as floats."""


class Classifier(torch.nn.Module):
    """An encoder with a head in the form that the Trainer calls."""

    accepts_loss_kwargs = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **arrays: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.encoder(*(arrays[name] for name in self.encoder.inputs))}


class Trainer(transformers.Trainer):
    """Fine-tunes with batches of like lengths, in an order that the seed alone decides."""

    def __init__(
        self,
        encoder: Encoder,
        arguments: transformers.TrainingArguments,
        train: Sequence[Row],
        validation: Sequence[Row] | None,
        *,
        pad_id: int,
        loss: Loss,
        head_learning_rate: float,
        watch: Watch,
    ) -> None:
        self._rows: Any = train  # a list does all that the Trainer asks of a Dataset
        looked_at: Any = validation and sorted(validation, key=lambda row: len(row[0]))
        self._pad_id = pad_id
        self._encoder = encoder
        self._head_learning_rate = head_learning_rate
        self._watch = watch
        self.classifier = Classifier(encoder)
        self._freeze_unused()
        super().__init__(
            self.classifier,
            arguments,
            data_collator=self._collate,
            train_dataset=self._rows,
            eval_dataset=looked_at,
            compute_loss_func=loss,
            compute_metrics=_measure,
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train to the last step, or until the watch ends it.

        Raises:
            PeerLost: another process is gone.
        """
        with _told_from_bugs():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the model on the validation rows; return nothing where a stop cut that short."""
        self._watch.look()
        try:
            with _told_from_bugs():
                return super().evaluate(*args, **kwargs)
        except _Interrupted:
            self.control.should_evaluate = False
            self._watch.end(self.control)
            return {}

    def get_train_dataloader(self) -> Any:
        order = _Order(
            [len(tokens) for tokens, _ in self._rows],
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
            self.args.seed,
            self,
        )
        return self.accelerator.prepare(
            DataLoader(
                self._rows,
                batch_size=self.args.train_batch_size,
                sampler=order,
                collate_fn=self._collate,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give the head a learning rate of its own."""
        decaying = set(self.get_decay_parameter_names(self.classifier))
        body = {id(parameter) for parameter in self._encoder.body()}
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in self.classifier.named_parameters():
            if parameter.requires_grad:
                key = (id(parameter) not in body, name in decaying)
                groups.setdefault(key, []).append(parameter)
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args)
        self.optimizer = optimizer(
            [
                {
                    "params": parameters,
                    "lr": self._head_learning_rate if of_head else self.args.learning_rate,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                }
                # The first group's learning rate is the one that is reported.
                for (of_head, decays), parameters in sorted(
                    groups.items(), key=lambda item: item[0]
                )
            ],
            **options,
        )
        return self.optimizer

    def _freeze_unused(self) -> None:
        """Leave out what no gradient reaches, such as a pooler below a BiLSTM.

        Several processes would wait for the gradients of each other's for ever.
        """
        arrays = self._collate(self._rows[:1])
        self.classifier.eval()(**arrays)["logits"].sum().backward()
        for parameter in self.classifier.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def _collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Make the arrays that a runtime makes when the model is served."""
        arrays = pad([tokens for tokens, _ in rows], self._pad_id)
        inputs = {name: torch.from_numpy(arrays[name]) for name in self._encoder.inputs}
        return inputs | {"labels": torch.from_numpy(np.stack([target for _, target in rows]))}


class _Order(Sampler[int]):
    """Rows at random, batches of like lengths. An epoch's order depends on its number alone."""

    def __init__(self, lengths: list[int], batch: int, seed: int, trainer: Trainer) -> None:
        self._lengths, self._batch, self._seed, self._trainer = lengths, batch, seed, trainer

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        epoch = int(self._trainer.state.epoch or 0)
        generator = torch.Generator().manual_seed(self._seed + epoch)
        order: list[int] = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self._lengths, self._batch, generator=generator
        )
        return iter(order)


class _Interrupted(Exception):
    """A stop came while the validation rows were being measured."""


@dataclass
class Watch(TrainerCallback):
    """What happens between the steps: reports, stops, and states to go on from."""

    stop: Stop
    world: World
    metrics: Metrics
    profiler: Profiler
    snapshots: Snapshots | None
    """Where the leader keeps the states of the Trainer's output directory."""
    objective: str
    """What the best model is the best in: `validation_<metric>`."""
    patience: int
    durable: bool
    """Whether states outlive the job, so that there is a reason for more than the best one."""
    every_steps: int | None
    every_seconds: float

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def look(self) -> None:
        """Expect the batches of another look at the validation rows."""
        self._looked = 0
        self._looking = progress(log, "validating, batches")

    def end(self, control: TrainerControl) -> None:
        """End the training here; all processes do so at once."""
        control.should_training_stop = True
        control.should_save = self.durable

    def _stopping(self) -> bool:
        """Return whether any process was told to stop; all of them then know."""
        if not self.world.any(bool(self.stop.requested)):
            return False
        self.stop.request("a stop of another host")
        return True

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        best = state.best_global_step
        known = best is None or self.snapshots is None or self.snapshots.has(best)
        if not self.world.broadcast(known):
            log.warning("the best model so far, of step %s, is lost; the search starts anew", best)
            state.best_global_step = state.best_metric = None
        self._saved = time.monotonic()
        self._ended: float | None = None
        self._progress = progress(log, "fine-tuning, steps", before=state.global_step)

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # So a step's dropout is the same after a restart, whatever ran before it.
        number = state.global_step * self.world.size + self.world.rank
        torch.manual_seed((args.seed * 1_000_003 + number) % 2**32)
        self._began = time.monotonic()
        self._waited = self._began - self._ended if self._ended else 0.0

    def on_substep_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._stopping():
            self.end(control)
            control.should_save &= state.global_step > 0

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        self._progress(step, state.max_steps)
        self._ended = time.monotonic()
        self.profiler.step(self._ended - self._began, self._waited)
        due = time.monotonic() - self._saved > self.every_seconds
        if self.every_steps and step % self.every_steps == 0:
            due = True
        if step >= state.max_steps:
            control.should_log = True
            control.should_save = self.durable
        elif self.world.any(bool(self.stop.requested) or due):
            control.should_save = self.durable
            if self._stopping():
                control.should_log = True
                self.end(control)

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._looked += 1
        self._looking(self._looked, len(kwargs["eval_dataloader"]))
        if self._stopping():
            raise _Interrupted

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._ended = None  # what comes now is no wait for data
        logs = kwargs["logs"]
        if self.world.leads and "loss" in logs:
            names = ("loss", "grad_norm", "learning_rate")
            self.metrics.report({name: float(logs[name]) for name in names}, state.global_step)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._ended = None
        values = {
            f"validation_{name}": float(kwargs["metrics"][f"eval_{name}"])
            for name in ("loss", "accuracy", "macro_f1")
        }
        if self.world.leads:
            self.metrics.report(values, state.global_step)
        value = values[self.objective]
        sign = -1 if self.objective.endswith("_loss") else 1
        better = state.best_metric is None or sign * value > sign * state.best_metric
        if better and math.isfinite(values["validation_loss"]):
            state.best_metric, state.best_global_step = value, state.global_step
            control.should_save = True
        if is_done(state, self.patience):
            self.end(control)

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._ended = None
        self._saved = time.monotonic()
        directory = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if self.snapshots is None:
            shutil.rmtree(directory, ignore_errors=True)
            return
        if name := broken_weights(directory):
            log.warning(
                "no checkpoint at step %d: the weights %s are NaN or infinite",
                state.global_step, name,
            )  # fmt: skip
            shutil.rmtree(directory)
            return
        # Nothing reads these: the arguments are the job's, and each step seeds what is random.
        for path in (directory / "training_args.bin", *directory.glob("rng_state*.pth")):
            path.unlink()
        self.snapshots.adopt(directory)
        log.info("checkpoint at step %d", state.global_step)


def is_done(state: TrainerState, patience: int) -> bool:
    """Return whether the training is at its end, or was `patience` times in vain since its best."""
    if state.global_step >= state.max_steps:
        return True
    since = [step for step in _looks(state) if step > (state.best_global_step or 0)]
    return patience > 0 and len(since) >= patience


def unmeasured(state: TrainerState, args: transformers.TrainingArguments) -> bool:
    """Return whether a stop has kept the look at the validation rows that was due at this step."""
    if args.eval_strategy == IntervalStrategy.NO:
        return False
    step = state.global_step
    due = step % int(args.eval_steps or 1) == 0 or step >= state.max_steps
    return due and step not in _looks(state)


def _looks(state: TrainerState) -> list[int]:
    """Return the steps after which the validation rows were measured."""
    return [int(entry["step"]) for entry in state.log_history if "eval_loss" in entry]


def _measure(prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)  # (rows, labels)
    targets = np.asarray(prediction.label_ids, np.int64)
    answers = logits > 0 if targets.ndim == 2 else logits.argmax(axis=1)
    return {
        "accuracy": accuracy_score(targets, answers),
        "macro_f1": f1_score(targets, answers, average="macro", zero_division=0),
    }


@contextmanager
def _told_from_bugs() -> Iterator[None]:
    """Raise PeerLost for what the Trainer's own collective operations raise, and for that alone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if isinstance(error, torch.distributed.DistError) or "gloo" in text or "nccl" in text:
            with peer_lost():
                raise
        raise
