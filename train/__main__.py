"""`train`: what SageMaker runs as `docker run IMAGE train`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

from train import script
from train.cluster import Cluster, processes_per_host
from train.errors import INTERNAL_ERROR, Stopped, outcome
from train.job import Job
from train.logs import log_to_stdout
from train.processes import Command, Supervisor, explain

log = logging.getLogger("train")


def main() -> int:
    arguments = set(sys.argv[1:])
    if {"-h", "--help"} & arguments:
        print(_help())
        return 0
    if "--metric-definitions" in arguments:
        from train.metrics import definitions

        print(json.dumps(definitions(), indent=2))
        return 0
    log_to_stdout()
    job = Job.from_environment()
    supervisor = Supervisor()
    try:
        supervisor.listen()
        job.clear_failure()
        if name := script.program(job):
            code, reason = script.run(name, job, supervisor)
        else:
            code, reason = _run_recipe(job, supervisor)
    except (Exception, Stopped) as error:
        code, reason = outcome(error)
        log.error("%s", reason, exc_info=code == INTERNAL_ERROR)
    if code:
        job.fail(reason)
    return code if code >= 0 else 128 - code  # as shells show signals


def _run_recipe(job: Job, supervisor: Supervisor) -> tuple[int, str]:
    """Run the processes of this host; return the exit code, and the reason where it is not 0."""
    with supervisor.preparing():
        commands = _commands(job)
    code = supervisor.run(commands)
    if supervisor.stopped_by:
        return code, outcome(Stopped(supervisor.stopped_by))[1]
    out_of_memory = supervisor.was_killed_for_memory()
    saving = "train_batch_size or max_length"
    return code, explain(code, out_of_memory, "the training process", saving)


def _commands(job: Job) -> list[Command]:
    """Return the processes of this host: one for each GPU, or one."""
    cluster = Cluster.of(job.resources(), processes_per_host())
    cluster.wait_for_peers()
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # -P: the working directory may have a train.py of somebody else's.
    return [
        Command(
            [sys.executable, "-P", "-m", "train.worker"],
            os.environ | {"PYTHONPATH": path} | cluster.environment(local_rank),
        )
        for local_rank in range(cluster.processes_per_host)
    ]


def _help() -> str:
    from train.hyperparameters import table

    lines = [f"  {name} ({default}): {meaning} [{allowed}; {recipes}]"
             for name, default, allowed, recipes, meaning in table()]  # fmt: skip
    return "\n".join(
        [
            "usage: train [--help | --metric-definitions]",
            "       (docker run IMAGE train, or python -m train)",
            "",
            "Runs the SageMaker training job that lies in /opt/ml, or in $SAGEMAKER_BASE_DIR:",
            "reads input/data/train, writes model/, output/data/ and, on failure, output/failure.",
            "With the hyperparameter or variable SAGEMAKER_PROGRAM it runs that file of the user's",
            "own code instead, as AWS's containers do.",
            "",
            "  --metric-definitions   print the job's MetricDefinitions as JSON",
            "",
            "Hyperparameters, with defaults (input/config/hyperparameters.json):",
            *lines,
        ]
    )


if __name__ == "__main__":
    code = main()
    # Python takes its handlers away while it ends: a late signal would change the exit status.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)
