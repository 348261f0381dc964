"""Rules for `train`."""

from __future__ import annotations

import json

from local_test.conformance.jobs import HOSTS, SCRIPT_SAYS, Job, Stop
from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.secret import keeps_secret
from local_test.conformance.subject import Subject
from local_test.job import REASON_LIMIT

CAUSELESS = ("traceback (most recent call last)", "framework error", "exception in thread")


def _demand(subject: Subject, name: str) -> str:
    """Say that a job stood a demand; the rules below are of this form."""
    otherwise = "not even a plain job goes well (rule train-completes)"
    return f"a job went well so: {subject.jobs.trials.stood(name, otherwise)}"


@rule(
    Needs.TRAINING,
    advice="run the image as shown with the same tree, and read its log",
    source="your-algorithms-training-signal-success-failure",
)
def train_completes(subject: Subject) -> str:
    """`docker run IMAGE train` on a plain tree ends with exit status 0."""
    trials = subject.jobs.trials
    if not trials.works:
        raise Broken(str(trials.best))
    return str(trials.best)


@rule(
    Needs.TRAINING,
    advice="write the model to /opt/ml/model before the program ends",
    source="your-algorithms-training-algo-output",
)
def train_writes_model(subject: Subject) -> str:
    """A job that went well leaves files in /opt/ml/model."""
    files = subject.jobs.done.model
    if not files:
        raise Broken("/opt/ml/model is empty")
    return f"{len(files)} files"


@rule(
    Needs.TRAINING,
    advice="write files instead of links: save_pretrained, not a copy of the hub's cache",
    source="hosting-faqs: model artifacts",
)
def train_model_without_links(subject: Subject) -> str:
    """The model has no symbolic links."""
    links = [path.name for path in subject.jobs.done.model if path.is_symlink()]
    if links:
        raise Broken(f"links: {', '.join(links[:5])}")
    return "none"


@rule(
    Needs.TRAINING,
    advice="write /opt/ml/output/failure only where the exit status is not 0",
    source="your-algorithms-training-signal-success-failure",
)
def train_no_failure_on_success(subject: Subject) -> str:
    """A job that went well leaves no /opt/ml/output/failure."""
    failure = subject.jobs.done.failure
    if failure is not None:
        raise Broken(f"exit status 0, and a failure file: {failure[:200]}")
    return "none"


@rule(
    Needs.TRAINING,
    advice="never print the environment or all hyperparameters as they are; redact by name",
    source="aws/sagemaker-training-toolkit: log_script_invocation prints all of them",
)
def train_keeps_secrets(subject: Subject) -> str:
    """The log does not hold a variable whose name says that it is secret."""
    return keeps_secret(subject.jobs.done.lines)


@rule(
    Needs.TRAINING,
    advice="bring in the image or in a channel what the job downloads: models, packages, code",
    source="mkt-algo-model-internet-free",
    contained=True,
)
def train_offline(subject: Subject) -> str:
    """A job needs no network, as under network isolation."""
    return _demand(subject, "train-offline")


@rule(
    Needs.TRAINING,
    advice="write to /opt/ml and /tmp alone; point HF_HOME and other caches to /tmp",
    source="model-train-storage: other paths are not kept",
    contained=True,
)
def train_read_only_root(subject: Subject) -> str:
    """A job writes nowhere but under /opt/ml and /tmp."""
    return _demand(subject, "train-read-only-root")


@rule(
    Needs.TRAINING,
    advice="write caches, locks and unpacked files to /tmp, never beside the data",
    source="your-algorithms-training-algo-running-container: FastFile mode",
    contained=True,
)
def train_read_only_input(subject: Subject) -> str:
    """A job writes nothing under /opt/ml/input, which FastFile mode mounts read-only."""
    return _demand(subject, "train-read-only-input")


@rule(
    Needs.TRAINING,
    advice="try to read each value as JSON, and take it as it is where it is none",
    source="aws/sagemaker-python-sdk#4247; SDK 2: estimator._json_encode_hyperparameters",
)
def train_quoted_hyperparameters(subject: Subject) -> str:
    """A job reads its hyperparameters also as SDK 2 sends them, strings in quotes."""
    trials = subject.jobs.trials
    if trials.works and not subject.options.hyperparameters:
        raise NotApplicable("no --hyperparameter was given")
    return _demand(subject, "train-quoted-hyperparameters")


@rule(
    Needs.TRAINING,
    advice="leave aside what begins with sagemaker_, and _tuning_objective_metric",
    source="automatic-model-tuning-define-metrics-variables; SDK 2: estimator",
)
def train_reserved_hyperparameters(subject: Subject) -> str:
    """A job leaves aside the hyperparameters that SDK 2 and the tuning service add."""
    return _demand(subject, "train-reserved-hyperparameters")


@rule(
    Needs.TRAINING,
    advice="need no more than current_host and hosts; fall back where the interface is not there",
    source="your-algorithms-training-algo-running-container: distributed training; "
    "SDK 3: local_container",
)
def train_lean_resources(subject: Subject) -> str:
    """A job needs no optional key of resourceconfig.json, and not the interface named there."""
    return _demand(subject, "train-lean-resources")


@rule(
    Needs.TRAINING,
    advice="have a default for every hyperparameter, or find it from the data",
    source="CreateTrainingJob: HyperParameters is optional",
)
def train_empty_hyperparameters(subject: Subject) -> str:
    """A job goes well with hyperparameters.json = {}."""
    job = subject.jobs.empty
    if not subject.jobs.trials.works and subject.options.hyperparameters:
        raise NotApplicable("not even a plain job goes well (rule train-completes)")
    if job.code != 0:
        raise Broken(str(job))
    return str(job)


@rule(
    Needs.TRAINING,
    advice="overwrite what is in /opt/ml/model; go on from a checkpoint or begin anew",
    source="model-managed-spot-training; CreateTrainingJob: RetryStrategy",
)
def train_starts_again(subject: Subject) -> str:
    """A job that finds the model and the checkpoints of an earlier attempt goes well."""
    job = subject.jobs.again
    if job.code != 0:
        raise Broken(str(job))
    return str(job)


@rule(
    Needs.TRAINING,
    advice="write a checkpoint under another name and rename it when it is whole; check it before "
    "use, and go on from the one before, or begin anew",
    source="model-managed-spot-training; model-checkpoints: files are copied as they are written",
)
def train_damaged_checkpoint(subject: Subject) -> str:
    """A job whose newest checkpoint is cut short, as by SIGKILL, goes on all the same."""
    job = subject.jobs.damaged
    if job.code:
        raise Broken(str(job))
    return str(job)


@rule(
    Needs.TRAINING,
    advice="read hosts and current_host alone, in any order; ask for the other's address until it "
    "has one; train on all hosts, or on the first while the others end with 0",
    source="your-algorithms-training-algo-running-container: distributed training; "
    "train-heterogeneous-cluster",
    contained=True,
)
def train_two_instances(subject: Subject) -> str:
    """A job on two instances goes well, in groups of any order, whoever is up first."""
    jobs = subject.jobs.two
    # One that failed is told rather than one that was then stopped.
    for host, job in sorted(zip(HOSTS, jobs, strict=True), key=lambda pair: not pair[1].code):
        if job.code != 0:
            raise Broken(f"{host}: {job}")
    return f"both ended with exit status 0 after {jobs[0].seconds:.1f} s"


@rule(
    Needs.TRAINING,
    advice="read the fifo /opt/ml/input/data/CHANNEL_0, or fail where a channel's "
    "TrainingInputMode is Pipe",
    source="your-algorithms-training-algo-running-container: Pipe mode",
)
def train_pipe_input(subject: Subject) -> str:
    """A job whose channels are in Pipe mode goes well, or fails; it does not wait for files."""
    job = subject.jobs.piped
    if job.code is None:
        raise Broken(f"it {job}")
    return str(job)


@rule(
    Needs.TRAINING,
    advice="start the script with each hyperparameter as an argument, --NAME VALUE, and with "
    "SM_MODEL_DIR and SM_CHANNEL_NAME in its environment",
    source="SDK 2: estimator with entry_point; aws/sagemaker-training-toolkit: params.py",
)
def train_script(subject: Subject) -> str:
    """An image that runs its user's script gives it what scripts of AWS's containers are given."""
    if "train-reserved-hyperparameters" in subject.jobs.trials.broken:
        raise NotApplicable("hyperparameters that begin with sagemaker_ are refused")
    job, data = subject.jobs.scripted, subject.options.data
    told = [line.partition(SCRIPT_SAYS)[2] for line in job.lines if SCRIPT_SAYS in line]
    if job.code != 0:
        raise Broken(str(job))
    if not told:
        raise NotApplicable("it runs no script that is named by sagemaker_program")
    given = json.loads(told[0])
    wanted = ["SM_MODEL_DIR", *(f"SM_CHANNEL_{name.upper()}" for name in data)]
    missing = [name for name in wanted if name not in given["variables"]]
    missing += [f"--{name}" for name in subject.options.hyperparameters
                if f"--{name}" not in given["arguments"]]  # fmt: skip
    if missing:
        raise Broken(f"the script was not given {', '.join(missing)}")
    return f"{job}; the script was given {', '.join(wanted)}"


def _failing(subject: Subject) -> Job:
    job = subject.jobs.failing
    if job.code is None:
        raise Broken(f"a job without data does not end: it {job}")
    return job


@rule(
    Needs.TRAINING,
    advice="end with a status that is not 0 after every error",
    source="your-algorithms-training-signal-success-failure",
)
def train_failure_status(subject: Subject) -> str:
    """A job that fails ends with an exit status other than 0."""
    job = _failing(subject)
    if job.code == 0:
        raise Broken(f"exit status 0, and a failure file: {(job.failure or '')[:200]}")
    return str(job)


@rule(
    Needs.TRAINING,
    advice="catch every exception at the top of the program, and write what it says there",
    source="your-algorithms-training-algo-output: failure",
)
def train_failure_file(subject: Subject) -> str:
    """A job that fails says why in /opt/ml/output/failure."""
    job = _failing(subject)
    if not (job.failure or "").strip():
        raise Broken(f"no failure file; {job}")
    return f"{len(job.failure or '')} characters"


@rule(
    Needs.TRAINING,
    advice="cut the text to 1024 characters; the whole traceback belongs in the log",
    source="your-algorithms-training-algo-output: FailureReason has 1024 characters",
)
def train_failure_length(subject: Subject) -> str:
    """The failure file has at most the 1024 characters that are shown."""
    failure = _failing(subject).failure
    if failure is None:
        raise NotApplicable("there is no failure file (rule train-failure-file)")
    if len(failure) > REASON_LIMIT:
        raise Broken(f"{len(failure)} characters")
    return f"{len(failure)} characters"


@rule(
    Needs.TRAINING,
    advice="begin with the exception's type and message; the traceback, if any, comes behind",
    source="your-algorithms-training-algo-output; aws/sagemaker-python-sdk#1225",
)
def train_failure_cause(subject: Subject) -> str:
    """The failure file names the cause in its first line."""
    failure = _failing(subject).failure
    if not (failure or "").strip():
        raise NotApplicable("there is no failure file (rule train-failure-file)")
    first = (failure or "").strip().splitlines()[0]
    if first.lower().startswith(CAUSELESS):
        raise Broken(first[:200])
    return first[:200]


@rule(
    Needs.TRAINING,
    advice="handle SIGTERM in process 1: save what is to be kept and end. A shell that starts the "
    "program must do so with exec, in a loop it must pass the signal on",
    source="your-algorithms-training-algo-dockerfile: SIGTERM, and SIGKILL 120 s later; "
    "aws/sagemaker-training-toolkit#125",
)
def train_ends_on_sigterm(subject: Subject) -> str:
    """A job that gets SIGTERM ends by itself within 120 seconds."""
    stop = _stopped(subject)
    process = f"process 1: {stop.process_1[:100]}"
    if stop.seconds >= stop.grace:
        raise Broken(f"it had to be killed {stop.grace:g} s after SIGTERM; {process}")
    return f"{stop.seconds:.1f} s after SIGTERM, exit status {stop.job.code}; {process}"


@rule(
    Needs.TRAINING,
    advice="in the handler of SIGTERM set a flag, and no more; ignore the signal once it is set",
    source="your-algorithms-training-algo-dockerfile: SIGTERM, of which a user's stop and the end "
    "of a spot instance are one each",
)
def train_second_sigterm(subject: Subject) -> str:
    """A job that gets SIGTERM again while it stops keeps what it would have kept."""
    once = _stopped(subject)
    if once.seconds >= once.grace:
        raise NotApplicable("it does not end after one (rule train-ends-on-sigterm)")
    twice = subject.jobs.stopped_twice
    if twice.seconds >= twice.grace:
        raise Broken(f"it had to be killed {twice.grace:g} s after the second SIGTERM")
    after_one, after_two = (
        f"exit status {job.code} and files in {' and '.join(job.kept) or 'no directory'}"
        for job in (once.job, twice.job)
    )
    # The second job may have come further than the first, so it may have kept more.
    if set(once.job.kept) - set(twice.job.kept) or (twice.job.code and not once.job.code):
        raise Broken(f"after one SIGTERM {after_one}, after two {after_two}")
    return after_two


def _stopped(subject: Subject) -> Stop:
    """Return a stopped job, of which it can be told that the signal ended it."""
    stop, whole = subject.jobs.stopped, subject.jobs.seconds
    unmoved = not stop.job.code and stop.job.seconds > 0.8 * whole
    if stop.seconds < stop.grace and unmoved and not subject.options.stop_hyperparameters:
        raise NotApplicable(
            f"it ended after {stop.job.seconds:.1f} s, as it does without a signal "
            f"({whole:.1f} s); give --stop-hyperparameter for a job of minutes"
        )
    return stop
