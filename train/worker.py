"""One process of a training job, with its place among them in the environment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import INTERNAL_ERROR, Stopped, UserError, outcome
from train.job import Job
from train.logs import log_to_stdout
from train.stopping import Stop
from train.world import World

if TYPE_CHECKING:  # slow to import
    from textmodel.artifact import Manifest
    from train.data import Splits
    from train.hyperparameters import Hyperparameters
    from train.metrics import Metrics
    from train.profiler import Profiler
    from train.recipes import Fitting
    from train.report import History

log = logging.getLogger("train")


def main() -> int:
    if not sys.warnoptions:  # what libraries warn of is for programmers
        warnings.simplefilter("ignore")
    leads_host = os.environ.get("LOCAL_RANK", "0") == "0"
    log_to_stdout(logging.INFO if leads_host else logging.WARNING)
    job = Job.from_environment()
    stop = Stop()
    try:
        stop.listen()  # before the slow imports: a stop while they run must not be lost
        world = World.join()
        run(job, stop, world)
        with suppress(Stopped):  # this process's part is done
            world.wait_for_leader()
        world.leave()
    except (Exception, Stopped) as error:
        stop.ignore()
        # Some libraries turn what a signal raised into an error of their own.
        code, reason = outcome(Stopped(stop.signal) if stop.signal else error)
        log.error("%s", reason, exc_info=code == INTERNAL_ERROR)
        job.fail(reason)
        return code
    return 0


def run(job: Job, stop: Stop, world: World) -> None:
    """Run one training job, and keep what can be seen of it from outside."""
    from train.metrics import Metrics
    from train.profiler import Profiler

    profile = job.output_data / "profile.csv" if world.leads else None
    with (
        Metrics(job.tensorboard if world.leads else None) as metrics,
        Profiler(profile, with_siblings=world.size > 1) as profiler,
    ):
        _run(job, stop, world, metrics, profiler)


def _run(job: Job, stop: Stop, world: World, metrics: Metrics, profiler: Profiler) -> None:
    """Read, fit, measure what was written, keep it."""
    from textmodel.artifact import Artifact, ArtifactError
    from train.checkpoints import Checkpoints
    from train.data import read_splits
    from train.hyperparameters import parse
    from train.metrics import check_objective
    from train.models import find_encoder
    from train.recipes import Fitting, load_recipe
    from train.report import History
    from train.watchers import Watchers, check_weights

    started = time.monotonic()
    settings = parse(job.hyperparameters())
    log.info("hyperparameters: %s", settings.describe())
    if unused := settings.unused():
        log.warning("recipe %s does not use %s", settings.recipe, ", ".join(unused))
    watchers = Watchers(settings.rules, stop.request, world.leads)
    history = History()
    metrics.listeners += [watchers, history]
    with ExitStack() as until_fitted, _directory(job, world) as directory:
        if world.broadcast(any(job.checkpoints.glob(f"{settings.recipe}-*/step-*"))):
            # There may be something to keep already: a stop only ends the steps.
            until_fitted.enter_context(stop.deferred())
        with profiler.phase("reading"):
            splits = read_splits(job, settings, world)
            encoder = find_encoder(settings.model_name, job)
        check_objective(job.hyperparameters(), settings, splits.held_out)
        watchers.look_at_rows(splits.train)
        fitting = Fitting(
            train=splits.train,
            validation=splits.held_out.get("validation"),
            labels=tuple(sorted(splits.train.label_counts(), key=_natural)),
            encoder=encoder,
            settings=settings,
            directory=directory,
            checkpoints=Checkpoints(
                job.checkpoints, _identity(settings, splits, encoder, world), world.leads
            ),
            metrics=metrics,
            watchers=watchers,
            profiler=profiler,
            stop=stop,
            world=world,
        )
        try:
            with profiler.phase("fitting"):
                manifest = load_recipe(settings.recipe)(fitting)
        except ArtifactError as error:
            raise UserError(str(error)) from error
        until_fitted.close()
        if not world.leads:
            return
        check_weights(directory)
        Artifact(directory, manifest).seal()
        manifest = _finish(fitting, splits, job, history, manifest)
        stop.ignore()  # the model is finished: half of what follows would spoil it
        Artifact(directory, manifest).seal()
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    log.info(
        "model written to %s: recipe %s, %d labels, %.0f MB, %.0f s",
        job.model, settings.recipe, len(fitting.labels), size / 1e6, time.monotonic() - started,
    )  # fmt: skip


@contextmanager
def _directory(job: Job, world: World) -> Iterator[Path]:
    """Yield where this process writes the model: only the leader's is kept."""
    from textmodel.artifact import writing

    if world.leads:
        with writing(job.model) as directory:
            yield directory
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _identity(settings: Hyperparameters, splits: Splits, encoder: Path, world: World) -> str:
    """Return a name that other data, settings, encoders or numbers of processes do not share."""
    digest = hashlib.sha256(f"{settings.describe()} {world.size}".encode())
    for data in (splits.train, *splits.held_out.values()):
        digest.update(f"{len(data)} {data.multi_label}".encode())
        for row in zip(data.texts, data.labels, strict=True):  # one by one: there may be millions
            digest.update(json.dumps(row).encode())
    for name in ("config.json", "model.safetensors"):
        if (encoder / name).is_file():
            with (encoder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{settings.recipe}-{digest.hexdigest()[:12]}"


def _finish(
    fitting: Fitting, splits: Splits, job: Job, history: History, manifest: Manifest
) -> Manifest:
    """Quantise the model, if asked to, and measure it. A stop ends this, but keeps the model."""
    from textmodel.artifact import Artifact

    stop, profiler = fitting.stop, fitting.profiler
    if stop.signal:
        return manifest
    try:
        if fitting.settings.int8:
            from train.int8 import add_int8

            with profiler.phase("quantising"):
                manifest = add_int8(fitting, splits, manifest)
        with profiler.phase("evaluating"):
            measured = _measure(fitting, splits, job, history)
        fitting.metrics.report(measured)
    except Stopped as error:
        stop.ignore()
        log.warning("stopped by %s: the model is kept without having been measured", error)
        return Artifact.open(fitting.directory).manifest  # int8 may be sealed, and not yet returned
    return dataclasses.replace(manifest, metrics=measured)


def _measure(fitting: Fitting, splits: Splits, job: Job, history: History) -> dict[str, float]:
    """Classify the held-out rows as the server will, and write what that says of the model."""
    from textmodel.classifier import load_classifier
    from train.evaluate import evaluate
    from train.report import page

    watchers = fitting.watchers
    evaluation = evaluate(load_classifier(fitting.directory), splits)
    for split, measured in evaluation.splits.items():
        watchers.look_at_predictions(split, measured.truth, measured.predictions)
    html = page(fitting, evaluation.reports, history, job.output_data / "profile.csv")
    evaluation.reports["watching"] = watchers.report() | {"stopped": fitting.stop.requested}
    evaluation.write(job.output_data)
    (job.output_data / "report.html").write_text(html, encoding="utf-8")
    return evaluation.metrics


def _natural(label: str) -> tuple[float, str]:
    """Sort numbers as numbers, before words (`nan` is one)."""
    try:
        value = float(label)
    except ValueError:
        value = math.inf
    return (value if math.isfinite(value) else math.inf), label


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without Python's own farewell, which crashes where a thread still waits for a lost peer.
    os._exit(code)
