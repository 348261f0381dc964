"""`serve`: what SageMaker runs as `docker run IMAGE serve`."""

from __future__ import annotations

import logging
import sys

from serve.settings import Settings, SettingsError, table

log = logging.getLogger("serve")


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help())
        return 0
    from serve.errors import UserCodeError
    from serve.logs import log_to_stdout
    from serve.servables import check
    from serve.workers import share_metrics, worker_count
    from textmodel.artifact import ArtifactError

    log_to_stdout()
    try:
        settings = Settings.from_environment()
        if not settings.multi_model:
            # Before any server starts: the cause is the last log line.
            check(settings.model, settings)
        workers = worker_count(settings)
    except (SettingsError, ArtifactError, UserCodeError) as error:
        log.error("%s", error)
        return 1
    log.info("%s", workers)
    if workers.value > 1:
        share_metrics()
    from serve.launcher import launch

    launch(settings.for_one_of(workers.value), workers.value)
    return 0


def _help() -> str:
    rows = [f"  {name} ({default}): {meaning}" for name, default, meaning in table()]
    return "\n".join(
        [
            "usage: serve    (docker run IMAGE serve, or python -m serve)",
            "",
            "Answers GET /ping and POST /invocations with the model in /opt/ml/model. With",
            "SAGEMAKER_MULTI_MODEL=true it has any number of models, which POST /models loads and",
            "DELETE /models/NAME unloads; POST /models/NAME/invoke asks one.",
            "",
            "Environment variables, with defaults:",
            *rows,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
