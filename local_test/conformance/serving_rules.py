"""Rules for `serve`: how it comes up, under which demands, and its health."""

from __future__ import annotations

from local_test.conformance.rules import Broken, Needs, rule
from local_test.conformance.secret import keeps_secret
from local_test.conformance.subject import Subject
from local_test.hosting import PING_LIMIT

CONTRACT = "your-algorithms-inference-code"


def _demand(subject: Subject, name: str) -> str:
    """Say that a server stood a demand; some of the rules below are of this form."""
    otherwise = "not even a plain server becomes healthy (serve-becomes-healthy)"
    return subject.servers.trials.stood(name, otherwise)


@rule(
    Needs.START,
    advice="run the image as shown with the same model, and read its log",
    source=f"{CONTRACT}: health checks, 8 minutes for the start",
)
def serve_becomes_healthy(subject: Subject) -> str:
    """`docker run IMAGE serve` answers GET /ping on port 8080 with 200 within 8 minutes."""
    trials = subject.servers.trials
    if not trials.works:
        raise Broken(str(trials.best))
    return str(trials.best)


@rule(
    Needs.START,
    advice="load the model before /ping says 200, best with a first prediction; 503 until then",
    source=f"{CONTRACT}: health checks; awslabs/multi-model-server#1027",
)
def ping_means_ready(subject: Subject) -> str:
    """From the first /ping with 200 on, /invocations is answered."""
    subject.servers.require_answers()
    server = subject.servers.trials.best
    if not server.first.good:
        raise Broken(f"right after the first /ping with 200 the sample got {server.first}")
    return f"the first answer: {server.first}"


@rule(
    Needs.START,
    advice="answer /invocations with 2xx; if the sample is not what the model reads, give --sample",
    source=f"{CONTRACT}: how your container should respond to inference requests",
)
def serve_answers(subject: Subject) -> str:
    """POST /invocations is answered with 2xx within 60 seconds."""
    if not subject.options.sample.given:
        subject.servers.require_answers()
    answer = subject.servers.main.invoke(subject.options.sample)
    if not answer.good:
        raise Broken(f"the sample got {answer}")
    return f"{answer} after {answer.seconds:.2f} s"


@rule(
    Needs.START,
    advice="bring in the image or in the model what is downloaded: tokenizers, packages, code",
    source="mkt-algo-model-internet-free",
    contained=True,
)
def serve_offline(subject: Subject) -> str:
    """A server needs no network, as under network isolation."""
    return _demand(subject, "serve-offline")


@rule(
    Needs.START,
    advice="write to /tmp alone; HF_HOME, MPLCONFIGDIR and worker files too",
    source="serverless-endpoints-troubleshooting; mlflow/mlflow#5544",
    contained=True,
)
def serve_read_only_root(subject: Subject) -> str:
    """A server writes nowhere but in /tmp, as on serverless endpoints."""
    return _demand(subject, "serve-read-only-root")


@rule(
    Needs.START,
    advice="unpack, convert and cache models in memory or in /tmp",
    source=f"{CONTRACT}: how SageMaker loads your model artifacts, read-only access",
    contained=True,
)
def serve_read_only_model(subject: Subject) -> str:
    """A server writes nothing into /opt/ml/model, which is mounted read-only."""
    return _demand(subject, "serve-read-only-model")


@rule(
    Needs.START,
    advice="let all users read the program (chmod -R a+rX), and need no home directory",
    source="serverless-endpoints-troubleshooting; huggingface/text-embeddings-inference#609",
    contained=True,
)
def serve_any_user(subject: Subject) -> str:
    """A server runs as any user, as in the sandbox of serverless endpoints."""
    return _demand(subject, "serve-any-user")


@rule(
    Needs.START,
    advice="take an empty variable for one that is not set",
    source="SDK 2: Model sets SAGEMAKER_PROGRAM and SAGEMAKER_SUBMIT_DIRECTORY, which may be empty",
)
def serve_empty_variables(subject: Subject) -> str:
    """A server takes the empty variables that SDK 2 sets for those that are not set."""
    return _demand(subject, "serve-empty-variables")


@rule(
    Needs.START,
    advice="never print the environment as it is; redact by name",
    source="aws/sagemaker-inference-toolkit; SDK 3: environment.py dumps all variables",
)
def serve_keeps_secrets(subject: Subject) -> str:
    """The log does not hold a variable whose name says that it is secret."""
    return keeps_secret(subject.servers.main.program.lines)


@rule(
    Needs.START,
    advice="answer without a body: the status says it all",
    source=f"{CONTRACT}: health checks, 200 and an empty body",
)
def ping_empty(subject: Subject) -> str:
    """GET /ping is answered with 200 and an empty body."""
    answer = subject.servers.main.ping()
    if answer.status != 200 or answer.body:
        raise Broken(f"{answer.status} and {len(answer.body)} bytes: {answer.text[:80]!r}")
    return "200 and no body"


@rule(
    Needs.START,
    advice="route all three methods of /ping to the same function",
    source=f"{CONTRACT}: POST requests to the /invocations and /ping endpoints",
)
def ping_methods(subject: Subject) -> str:
    """/ping answers GET, HEAD and POST alike."""
    server = subject.servers.main
    got = {
        method: server.ask(method, "/ping", timeout=PING_LIMIT).status
        for method in ("GET", "HEAD", "POST")
    }
    seen = ", ".join(f"{method} {status}" for method, status in got.items())
    if set(got.values()) != {200}:
        raise Broken(seen)
    return seen
