"""The encoder and a classification head, fine-tuned with Hugging Face's Trainer."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

from transformers import (
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from textmodel.artifact import Manifest, library_versions
from textmodel.encoder import (
    export_openvino,
    load_encoder,
    load_for_finetuning,
    load_tokenizer,
)
from textmodel.hardware import device, precision
from train.metrics import Metrics
from train.progress import progress
from train.recipes.fitting import Fitting
from train.recipes.tokens import log_cut, write_tokenizer
from train.stopping import Stop

log = logging.getLogger(__name__)


def fit(fitting: Fitting) -> Manifest:
    settings = fitting.settings
    set_seed(settings.seed)
    tokenize, limits = write_tokenizer(fitting)
    model = load_for_finetuning(fitting.encoder, fitting.labels)
    tokens = tokenize(fitting.train.texts)
    log_cut(tokens, limits.max_length)
    rows = [
        {"input_ids": one.ids, "labels": int(target)}
        for one, target in zip(tokens, fitting.targets, strict=True)
    ]
    on = device()
    precise = precision(on.value)
    log.info("%s", on)
    log.info("%s", precise)
    # From the first step on there is something to keep, so a stop only ends the steps.
    with tempfile.TemporaryDirectory() as scratch, fitting.stop.deferred():
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.train_batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            bf16=precise.value == "bf16",
            use_cpu=on.value == "cpu",
            train_sampling_strategy="group_by_length",
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(load_tokenizer(fitting.directory)),
            callbacks=[_Lines(fitting.metrics), _EndOnRequest(fitting.stop)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if trainer.state.global_step < trainer.state.max_steps:
            log.warning("stopped at step %d: the model so far is kept", trainer.state.global_step)
        model.save_pretrained(fitting.directory)
        # Read back, because the Trainer left its own precision in the forward function of `model`.
        export_openvino(load_encoder(fitting.directory, pooling=None), fitting.directory)
    return Manifest(
        task="text-classification",
        recipe=settings.recipe,
        labels=fitting.labels,
        max_length=limits.max_length,
        pooling=None,
        normalize=False,
        head="logits",
        runtimes=("openvino", "torch"),
        base_model=settings.model_name,
        versions=library_versions(),
    )


class _Lines(TrainerCallback):
    """Prints progress and the loss as lines of their own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress = progress(log, "fine-tuning, steps")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._metrics.report({"loss": float(logs["loss"])}, state.global_step)


class _EndOnRequest(TrainerCallback):
    """Ends the training after the step in which the platform asked for it."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._stop.requested:
            control.should_training_stop = True
