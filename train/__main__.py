"""`train`: what SageMaker runs as `docker run IMAGE train`."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time

from train.errors import Stopped, UserError
from train.job import Job
from train.stopping import Stop

log = logging.getLogger("train")

USER_ERROR, INTERNAL_ERROR, STOPPED = 1, 70, 143


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help())
        return 0
    stop = Stop()
    stop.listen()  # before the slow imports: a stop while they run must not be lost
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout
    )
    job = Job.from_environment()
    try:
        run(job, stop)
    except UserError as error:
        log.error("%s", error)
        job.fail(str(error))
        return USER_ERROR
    except Stopped as error:
        reason = f"stopped by {error} before a model was finished; nothing was written to the model"
        log.error("%s", reason)
        job.fail(reason)
        return STOPPED
    except Exception as error:
        log.exception("this is a bug in optml, not in your input")
        job.fail(f"bug in optml: {type(error).__name__}: {error}\nThe log has the traceback.")
        return INTERNAL_ERROR
    return 0


def run(job: Job, stop: Stop) -> None:
    """Run one training job: read, fit, measure what was written, keep it."""
    from textmodel.artifact import Artifact, ArtifactError, writing
    from textmodel.classifier import load_classifier
    from train.data import read_splits
    from train.evaluate import evaluate, log_metrics
    from train.hyperparameters import parse
    from train.models import find_encoder
    from train.recipes import Fitting, load_recipe

    started = time.monotonic()
    settings = parse(job.hyperparameters())
    log.info("hyperparameters: %s", settings.model_dump_json())
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
        artifact = Artifact(directory, manifest).seal()
        with stop.deferred():  # the model is finished: a stop must not throw it away
            if not stop.requested:
                evaluation = evaluate(load_classifier(directory), splits)
                evaluation.write(job.output_data)
                log_metrics(evaluation.metrics)
                manifest = dataclasses.replace(manifest, metrics=evaluation.metrics)
                artifact = Artifact(directory, manifest).seal()
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    log.info(
        "model written to %s: recipe %s, %d labels, %.0f MB, %.0f s",
        job.model, artifact.manifest.recipe, len(labels), size / 1e6, time.monotonic() - started,
    )  # fmt: skip


def _natural(label: str) -> tuple[float, str]:
    """Sort numbers as numbers, before words."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


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
