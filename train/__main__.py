"""`train`: what SageMaker runs as `docker run IMAGE train`."""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import Stopped, UserError
from train.job import Job
from train.stopping import Stop

if TYPE_CHECKING:  # slow to import
    from train.data import Splits

log = logging.getLogger("train")

USER_ERROR, INTERNAL_ERROR, STOPPED = 1, 70, 143

_MACHINE = {
    errno.ENOSPC: "the disk is full; give the job a larger volume (VolumeSizeInGB)",
    errno.EACCES: "the container's user may not use this file",
    errno.EEXIST: "a file stands where a directory should be",
    errno.ENOTDIR: "a file stands where a directory should be",
    errno.EROFS: "the file system is mounted read-only",
}
"""What the machine can lack; no fault of the input, and no bug."""


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help())
        return 0
    if not sys.warnoptions:  # what libraries warn of is for programmers
        warnings.simplefilter("ignore")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout
    )
    job = Job.from_environment()
    stop = Stop()
    try:
        stop.listen()  # before the slow imports: a stop while they run must not be lost
        job.clear_failure()
        run(job, stop)
    except (Exception, Stopped) as error:
        stop.ignore()
        code, reason = _outcome(error, job, stop)
        log.error("%s", reason, exc_info=code == INTERNAL_ERROR)
        job.fail(reason)
        return code
    return 0


def run(job: Job, stop: Stop) -> None:
    """Run one training job: read, fit, measure what was written, keep it."""
    from textmodel.artifact import Artifact, ArtifactError, writing
    from train.data import read_splits
    from train.hyperparameters import parse
    from train.models import find_encoder
    from train.recipes import Fitting, load_recipe

    started = time.monotonic()
    settings = parse(job.hyperparameters())
    log.info("hyperparameters: %s", settings.describe())
    if unused := settings.unused():
        log.warning("recipe %s does not use %s", settings.recipe, ", ".join(unused))
    splits = read_splits(job, settings)
    labels = tuple(sorted(set(splits.train.labels), key=_natural))
    with writing(job.model) as directory:
        try:
            fitting = Fitting(
                splits.train,
                labels,
                find_encoder(settings.model_name, job),
                settings,
                directory,
                stop,
            )
            manifest = load_recipe(settings.recipe)(fitting)
        except ArtifactError as error:
            raise UserError(str(error)) from error
        Artifact(directory, manifest).seal()
        metrics = _measure(directory, splits, job, stop)
        stop.ignore()  # the model is finished: half of what follows would spoil it
        Artifact(directory, dataclasses.replace(manifest, metrics=metrics)).seal()
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    log.info(
        "model written to %s: recipe %s, %d labels, %.0f MB, %.0f s",
        job.model, settings.recipe, len(labels), size / 1e6, time.monotonic() - started,
    )  # fmt: skip


def _measure(model: Path, splits: Splits, job: Job, stop: Stop) -> dict[str, float]:
    """Classify the held-out rows as the server will. A stop ends this, but keeps the model."""
    from textmodel.classifier import load_classifier
    from train.evaluate import evaluate, log_metrics

    if stop.requested:
        return {}
    try:
        evaluation = evaluate(load_classifier(model), splits)
        evaluation.write(job.output_data)
    except Stopped as error:
        stop.ignore()
        log.warning("stopped by %s: the model is kept without having been measured", error)
        return {}
    log_metrics(evaluation.metrics)
    return evaluation.metrics


def _outcome(error: BaseException, job: Job, stop: Stop) -> tuple[int, str]:
    """Return the exit code of a job that has no model to show, and the reason."""
    if stop.requested:  # some libraries turn what a signal raised into an error of their own
        return STOPPED, (
            f"stopped by {stop.requested} before a model was finished; {job.model} is as it was"
        )
    if isinstance(error, UserError):
        return USER_ERROR, str(error)
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return USER_ERROR, f"{_MACHINE[error.errno]}: {error}"
    return INTERNAL_ERROR, (
        f"bug in optml, not in your input: {type(error).__name__}: {error}\n"
        "The log has the traceback."
    )


def _natural(label: str) -> tuple[float, str]:
    """Sort numbers as numbers, before words (`nan` is one)."""
    try:
        value = float(label)
    except ValueError:
        value = math.inf
    return (value if math.isfinite(value) else math.inf), label


def _help() -> str:
    from train.hyperparameters import table

    lines = [f"  {name} ({default}): {meaning} [{allowed}; {recipes}]"
             for name, default, allowed, recipes, meaning in table()]  # fmt: skip
    return "\n".join(
        [
            "usage: train    (docker run IMAGE train, or python -m train)",
            "",
            "Runs the SageMaker training job that lies in /opt/ml, or in $SAGEMAKER_BASE_DIR:",
            "reads input/data/train, writes model/, output/data/ and, on failure, output/failure.",
            "",
            "Hyperparameters, with defaults (input/config/hyperparameters.json):",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
