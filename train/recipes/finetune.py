"""The encoder and a classification head, fine-tuned with Hugging Face's Trainer."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from transformers import TrainingArguments, set_seed

from textmodel.artifact import Manifest, library_versions
from textmodel.encoder import POOLED, Encoder, load_for_finetuning
from textmodel.export import export_openvino
from textmodel.hardware import Choice, cpu_count, device, precision
from textmodel.tokenizer import Tokenizer
from train.checkpoints import Checkpoints
from train.data import Dataset
from train.errors import Stopped, UserError
from train.recipes.class_weights import class_weights
from train.recipes.fitting import Fitting
from train.recipes.loss import Loss
from train.recipes.snapshots import Snapshots, read_state, shared
from train.recipes.tokens import log_cut, write_tokenizer
from train.recipes.trainer import Row, Trainer, Watch, is_done, unmeasured

log = logging.getLogger(__name__)

NEW_HEAD_RATE = 1e-3
"""The learning rate of a head that has to learn everything."""


def fit(fitting: Fitting) -> Manifest:
    settings = fitting.settings
    if settings.early_stopping_patience and fitting.validation is None:
        raise UserError(
            "early_stopping_patience needs rows to look at: pass a channel validation, or leave "
            "the channel test out, and a part of the channel train is held out"
        )
    set_seed(settings.seed)
    tokenize, limits = write_tokenizer(fitting)
    encoder = load_for_finetuning(
        fitting.encoder,
        fitting.labels,
        settings.head,
        fitting.train.multi_label,
        limits.pooling,
    )
    if settings.freeze_encoder:
        for parameter in encoder.body():
            parameter.requires_grad_(False)
    # From the first step on there is something to keep, so a stop only ends the steps.
    with _scratch(fitting) as scratch, fitting.stop.deferred():
        snapshots = _snapshots(fitting, scratch)
        trainer = _trainer(fitting, encoder, tokenize, limits.max_length, scratch, snapshots)
        _train(trainer, fitting, scratch, snapshots)
        if not trainer.state.global_step:
            raise Stopped(fitting.stop.requested)
        if fitting.world.leads:
            _load_best(trainer, fitting, snapshots)
            encoder.cpu().eval().save(fitting.directory)
            export_openvino(encoder.executed(), fitting.directory)
    return Manifest(
        task="text-classification",
        recipe=settings.recipe,
        labels=fitting.labels,
        max_length=limits.max_length,
        pooling=encoder.pooling,
        normalize=False,
        head="linear" if settings.head == POOLED else "logits",
        runtimes=("openvino", "torch"),
        base_model=settings.model_name,
        versions=library_versions(),
        multi_label=fitting.train.multi_label,
        pairs=fitting.train.pairs,
    )


def _trainer(
    fitting: Fitting,
    encoder: Encoder,
    tokenize: Tokenizer,
    max_length: int,
    scratch: Path,
    snapshots: Snapshots | None,
) -> Trainer:
    settings, world = fitting.settings, fitting.world
    on, threads = device(), _threads()
    precise = _precision(on.value, settings.precision)
    for choice in (on, threads, precise):
        log.info("%s", choice)
    rows = _rows(fitting, fitting.train, tokenize, max_length)
    per_process = max(1, settings.train_batch_size // world.size)
    batches = math.ceil(math.ceil(len(rows) / per_process) / world.size)
    epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        max_steps=math.ceil(settings.epochs * epoch),
        per_device_train_batch_size=per_process,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=precise.value == "bf16",
        fp16=precise.value == "fp16",
        use_cpu=on.value == "cpu",
        # After an epoch as after any other number of steps, or a state that is saved between the
        # last step and the look at the validation rows would go on without that.
        eval_strategy="steps" if fitting.validation else "no",
        eval_steps=settings.eval_steps or epoch,
        save_strategy="no",  # the watch decides
        logging_steps=50,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=on.value == "cuda",
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        encoder,
        arguments,
        rows,
        _rows(fitting, fitting.validation, tokenize, max_length) if fitting.validation else None,
        pad_id=tokenize.pad_id,
        loss=Loss(class_weights(fitting), settings.label_smoothing),
        head_learning_rate=_head_learning_rate(fitting),
        watch=Watch(
            fitting.stop,
            world,
            fitting.metrics,
            fitting.profiler,
            snapshots,
            settings.metric_for_best_model,
            settings.early_stopping_patience,
            durable=world.broadcast(fitting.checkpoints.enabled),
            every_steps=settings.checkpoint_steps,
            every_seconds=settings.checkpoint_minutes * 60,
        ),
    )
    torch.set_num_threads(threads.value)  # accelerate has set what it thinks right
    return trainer


def _train(trainer: Trainer, fitting: Fitting, scratch: Path, snapshots: Snapshots | None) -> None:
    """Take the steps that are left of the training."""
    newest = shared(snapshots.newest() if snapshots else None, scratch / "newest", fitting.world)
    if newest is None:
        trainer.train()
        return
    state = read_state(newest)
    if is_done(state, fitting.settings.early_stopping_patience):
        log.info("the checkpoint of step %d is the end of this training", state.global_step)
        load_model(trainer.classifier, newest / "model.safetensors")
        trainer.state = state
        if unmeasured(state, trainer.args):
            trainer.evaluate()
        return
    log.info("going on from the checkpoint of step %d of %d", state.global_step, state.max_steps)
    trainer.args.eval_on_start = unmeasured(state, trainer.args)
    trainer.train(str(newest))


def _load_best(trainer: Trainer, fitting: Fitting, snapshots: Snapshots | None) -> None:
    """Give the model the best weights that there were on the validation rows, if there are any."""
    state = trainer.state
    if state.global_step < state.max_steps and fitting.stop.requested:
        log.warning(
            "stopped (%s) at step %d of %d: the model so far is kept",
            fitting.stop.requested, state.global_step, state.max_steps,
        )  # fmt: skip
    best = state.best_global_step
    if best is None:
        return
    log.info(
        "the model of step %d is kept: %s=%.4g is the best",
        best, fitting.settings.metric_for_best_model, state.best_metric,
    )  # fmt: skip
    if best != state.global_step and snapshots is not None:
        load_model(trainer.classifier, snapshots.path(best) / "model.safetensors")


def _rows(fitting: Fitting, data: Dataset, tokenize: Tokenizer, max_length: int) -> list[Row]:
    tokens = tokenize(data.texts)
    log_cut(sum(one.cut for one in tokens), len(tokens), max_length)
    targets = fitting.targets_of(data)
    kind: Any = np.float32 if data.multi_label else np.int64
    return list(zip(tokens, targets.astype(kind), strict=True))


def _head_learning_rate(fitting: Fitting) -> float:
    settings = fitting.settings
    if settings.head_learning_rate is not None:
        return settings.head_learning_rate
    new = settings.head != "linear" or settings.freeze_encoder
    return NEW_HEAD_RATE if new else settings.learning_rate


def _threads() -> Choice[int]:
    """Return the cores that this process should use, of those that its host's processes share."""
    cores = cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Choice("threads", max(1, cores.value // processes), cores.reason)


def _precision(on: str, requested: str) -> Choice[str]:
    if requested == "fp16" and on != "cuda":
        raise UserError("precision=fp16 needs a GPU; set bf16, fp32 or auto on CPUs")
    if requested == "bf16" and on == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise UserError("precision=bf16: this GPU has no bf16; set fp16, fp32 or auto")
    return precision(on, requested)


def _snapshots(fitting: Fitting, scratch: Path) -> Snapshots | None:
    """Return where the leader keeps the states of the training: nowhere for long, if it cannot."""
    if not fitting.world.leads:
        return None
    kept = fitting.checkpoints
    return Snapshots(kept if kept.enabled else Checkpoints(scratch, "unkept"))


@contextmanager
def _scratch(fitting: Fitting) -> Iterator[Path]:
    """Yield an empty directory, of the file system of the checkpoints where there are some."""
    if not fitting.checkpoints.enabled:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    directory = fitting.checkpoints.directory / ".scratch"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
