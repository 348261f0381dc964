"""Rules for the end of a server, and for servers of other kinds."""

from __future__ import annotations

import csv
import json
import shutil
import time

from local_test.conformance.client import Answer
from local_test.conformance.image import BIND_TO_PORT, MULTI_MODELS
from local_test.conformance.payload_rules import large_body
from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.samples import Sample
from local_test.conformance.server import Server
from local_test.conformance.subject import Subject
from local_test.transform import MAX_PAYLOAD, STRATEGIES

PORT = 9001
MODELS = "/opt/ml/models"
JSON = {"Content-Type": "application/json"}
CSV = "text/csv"
RECOVERY = 30.0
"""Seconds that a server has to start another process in place of one that was killed."""
KILL_LARGEST = """
largest=0
for process in /proc/[0-9]*; do
    case ${process#/proc/} in 1 | $$) continue ;; esac
    read -r _ pages _ <"$process/statm" || continue
    if [ "$pages" -gt "$largest" ]; then largest=$pages victim=$process; fi
done
[ "$victim" ] && tr '\\0' ' ' <"$victim/cmdline" && kill -9 "${victim#/proc/}"
"""
"""A shell's program that kills a process other than the first, and tells which."""


@rule(
    Needs.STOPPED,
    advice="handle SIGTERM in process 1. A shell that starts the server must do so with exec",
    source="your-algorithms-inference-code: SIGTERM, and SIGKILL 30 s later",
)
def serve_ends_on_sigterm(subject: Subject) -> str:
    """A server that gets SIGTERM ends by itself within 30 seconds."""
    stop = subject.servers.stopped
    if stop.seconds >= stop.grace:
        raise Broken(f"it had to be killed {stop.grace:g} s after SIGTERM; process 1: "
                     f"{stop.process_1[:100]}")  # fmt: skip
    return f"{stop.seconds:.1f} s after SIGTERM; process 1: {stop.process_1[:100]}"


@rule(
    Needs.STOPPED,
    advice="end with status 0 after SIGTERM: the platform asked for it",
    source="your-algorithms-inference-code: run your image",
)
def serve_ends_with_0(subject: Subject) -> str:
    """A server that ends on SIGTERM does so with exit status 0."""
    stop = subject.servers.stopped
    if stop.seconds >= stop.grace:
        raise NotApplicable("it had to be killed (rule serve-ends-on-sigterm)")
    if stop.code:
        raise Broken(f"exit status {stop.code}")
    return "exit status 0"


@rule(
    Needs.STOPPED,
    advice="on SIGTERM accept no more, answer what was accepted, then end (gunicorn: exec it, with "
    "--graceful-timeout 25; nginx: SIGQUIT)",
    source="your-algorithms-inference-code: SIGTERM; UpdateEndpoint ends the old servers so",
)
def requests_in_flight(subject: Subject) -> str:
    """A request that was begun before SIGTERM is answered."""
    subject.servers.require_answers()
    last = subject.servers.stopped.last
    if not last.good:
        raise Broken(f"it got {last}")
    return str(last)


def _with_label(subject: Subject, label: str) -> None:
    if not subject.bare and not subject.image.has_label(label):
        raise NotApplicable(f"the image has no label {label}=true")


@rule(
    Needs.FURTHER,
    advice="listen on SAGEMAKER_BIND_TO_PORT where it is set, or leave the label out",
    source="inference-pipeline-real-time: containers in a pipeline",
)
def bind_to_port(subject: Subject) -> str:
    """With the label accept-bind-to-port a server listens on SAGEMAKER_BIND_TO_PORT."""
    if "serve" in subject.abilities:
        _with_label(subject, BIND_TO_PORT)
    variables = {"SAGEMAKER_BIND_TO_PORT": str(PORT), "SAGEMAKER_SAFE_PORT_RANGE": "9001-9100"}
    server = subject.servers.special(variables, port=PORT)
    if not server.ready:
        raise Broken(f"on port {PORT} it is {server}")
    return f"on port {PORT} it is {server}"


@rule(
    Needs.FURTHER,
    advice="have no limit of body size below 100 MB in batch transform jobs",
    source="batch-transform: MaxPayloadInMB at most 100; aws/sagemaker-python-sdk#1096",
)
def body_of_100_mb(subject: Subject) -> str:
    """A body of 100 MB is read in a batch transform job."""
    subject.servers.require_answers()
    return large_body(subject, subject.servers.batch, MAX_PAYLOAD)


@rule(
    Needs.FURTHER,
    advice="answer with MaxConcurrentTransforms, BatchStrategy and MaxPayloadInMB, or with 404",
    source="your-algorithms-batch-code: execution parameters",
)
def execution_parameters(subject: Subject) -> str:
    """GET /execution-parameters, where it is answered, holds parameters that the service takes."""
    answer = subject.servers.batch.ask("GET", "/execution-parameters")
    if answer.status == 404:
        raise NotApplicable("404: the service takes its defaults")
    try:
        found = json.loads(answer.body) if answer.status == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Broken(str(answer))
    concurrent, size = found.get("MaxConcurrentTransforms"), found.get("MaxPayloadInMB")
    if not (isinstance(concurrent, int) and isinstance(size, int)):
        raise Broken(f"MaxConcurrentTransforms and MaxPayloadInMB are to be whole numbers: {found}")
    if (
        found.get("BatchStrategy") not in STRATEGIES.values()
        or not 0 < concurrent * size <= MAX_PAYLOAD
    ):
        raise Broken(
            f"{found}; allowed: {' or '.join(STRATEGIES.values())}, and a product of at most 100"
        )
    return str(answer)


@rule(
    Needs.FURTHER,
    advice="write one line for each that came, in its place; a bad one is an error on its own line",
    source="batch-transform-data-processing: JoinSource; huggingface/notebooks#187",
)
def lines_of_json(subject: Subject) -> str:
    """Lines of JSON, where they are read, get as many lines of answer, also for a bad line."""
    sample = subject.options.sample
    if not sample.is_json:
        raise NotApplicable("the sample is no JSON")
    subject.servers.require_answers()
    line = json.dumps(json.loads(sample.body)).encode()
    batch = subject.servers.batch
    good = batch.invoke(Sample(b"\n".join([line] * 3), "application/jsonlines"))
    if 400 <= good.status < 500:
        raise NotApplicable(f"application/jsonlines is not read: {good}")
    if not good.good or len(good.text.splitlines()) != 3:
        raise Broken(f"3 lines got {good}")
    mixed = batch.invoke(Sample(b"\n".join([line, b"{", line]), "application/jsonlines"))
    if mixed.status >= 500 or (mixed.good and len(mixed.text.splitlines()) != 3):
        raise Broken(f"3 lines, one of them bad, got {mixed}")
    return f"3 lines got 3; with a bad one among them {mixed}"


@rule(
    Needs.FURTHER,
    advice="write one row for each that came, ended by a line break, and no header",
    source="batch-transform-data-processing: JoinSource; batch-transform: SplitType Line",
)
def rows_of_csv(subject: Subject) -> str:
    """Rows of CSV, where they are read and written, get as many rows of answer."""
    row = subject.options.sample.row
    if row is None:
        raise NotApplicable("no row is known that it reads")
    subject.servers.require_answers()

    def invoke(body: bytes) -> Answer:
        return subject.servers.batch.invoke(Sample(body, CSV), {"Accept": CSV})

    one = invoke(row)
    if not one.good:
        raise NotApplicable(f"{CSV} is not read or not written: a row got {one}")
    if CSV not in one.headers.get("content-type", ""):
        raise NotApplicable(f"{CSV} is not written: a row got {one}")
    for ending in (b"", b"\n"):
        answer = invoke(b"\n".join([row] * 3) + ending)
        if not answer.good or len(list(csv.reader(answer.text.splitlines()))) != 3:
            raise Broken(f"3 rows {'with' if ending else 'without'} a line break at the end got "
                         f"{answer}")  # fmt: skip
    return f"3 rows got {answer}"


@rule(
    Needs.FURTHER,
    advice="start another process in place of one that is lost, as gunicorn does; or end, or "
    "answer /ping with 503, and the platform replaces the container",
    source="your-algorithms-inference-code: health checks; awslabs/multi-model-server#1027",
    contained=True,
)
def serve_survives_kill(subject: Subject) -> str:
    """A server whose largest process is killed answers again, ends, or says so to /ping."""
    subject.servers.require_answers()
    server, sample = subject.servers.special({}), subject.options.sample
    killed = subject.shell(server.program, KILL_LARGEST)
    if not killed:
        raise NotApplicable("no process of it but process 1 is seen, with which it ends")
    started, waited = time.monotonic(), 0.0
    while waited <= RECOVERY:
        answer = server.ask("POST", "/invocations", sample.body, sample.headers, RECOVERY)
        waited = time.monotonic() - started
        if server.program.returncode is not None:
            return f"it ended with status {server.program.returncode} after {waited:.1f} s"
        if answer.good:
            return f"it answers {waited:.1f} s after the end of {killed[:100]}"
        time.sleep(0.2)
    ping = server.ping()
    if ping.status == 200:
        raise Broken(f"without {killed[:100]} /ping says 200, and the sample got {answer}")
    return f"/ping got {ping}"


@rule(
    Needs.FURTHER,
    advice="implement the routes under /models, or leave the label out",
    source="mms-container-apis; build-multi-model-build-container",
    contained=True,
)
def multi_models(subject: Subject) -> str:
    """With the label multi-models a server loads, lists, asks and unloads models by its API."""
    if "serve" in subject.abilities:
        _with_label(subject, MULTI_MODELS)
    source = subject.model
    if source is None:
        raise NotApplicable("there is no model to load; give --model")
    models = subject.new_directory("models")
    shutil.copytree(source, models / "one/model")
    server = subject.servers.special({"SAGEMAKER_MULTI_MODEL": "true"}, model=models, target=MODELS)
    if not server.ready:
        raise Broken(f"without a model it is {server}")
    return _managed(server, subject.options.sample)


def _managed(server: Server, sample: Sample) -> str:
    """Do to a model what the platform does; return what was seen."""
    wish = json.dumps({"model_name": "one", "url": f"{MODELS}/one/model"}).encode()
    invoke = (sample.body, sample.headers)
    steps = [
        ("GET", "/models", None, None, 200),
        ("POST", "/models", wish, JSON, 200),
        ("POST", "/models", wish, JSON, 409),
        ("GET", "/models/one", None, None, 200),
        ("POST", "/models/one/invoke", *invoke, 200),
        ("DELETE", "/models/one", None, None, 200),
        ("DELETE", "/models/one", None, None, 404),
        ("POST", "/models/one/invoke", *invoke, 404),
    ]
    for method, path, body, headers, expected in steps:
        answer = server.ask(method, path, body, headers)
        if answer.status != expected:
            raise Broken(f"{method} {path} got {answer} instead of {expected}")
    return f"{len(steps)} steps with the statuses that the platform expects"
