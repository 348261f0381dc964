"""Rules for what a server says when something is wrong."""

from __future__ import annotations

import re
import shutil

from local_test.conformance.client import Answer
from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.server import Server
from local_test.conformance.subject import Subject

MESSAGE_CHARACTERS = 2048
TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|File \\?\"[^\"]+\", line \d+|\n\s+at \w"
)


@rule(
    Needs.SERVER,
    advice="answer what is wrong with the body with 4xx, and say what to send",
    source="InvokeEndpoint: ModelError has the container's status",
)
def broken_body(subject: Subject) -> str:
    """A body that is no JSON, though its type says so, is answered with 4xx."""
    if not subject.options.sample.is_json:
        raise NotApplicable("the sample is no JSON")
    answer = subject.servers.refusals["a body that is no JSON"]
    if not 400 <= answer.status < 500:
        raise Broken(str(answer))
    return str(answer)


@rule(
    Needs.SERVER,
    advice="log the traceback, and answer with a message and an id that finds it",
    source="aws/sagemaker-inference-toolkit: transformer.py answers with tracebacks",
)
def no_tracebacks(subject: Subject) -> str:
    """No error that a client sees holds a traceback."""
    answers = {f"to {name}": answer for name, answer in subject.servers.refusals.items()}
    fault = subject.servers.fault
    if fault:
        answers["to a fault of its own"] = fault
    found = [name for name, answer in answers.items() if TRACEBACK.search(answer.text)]
    if found:
        raise Broken(f"in the answer {found[0]}: {answers[found[0]].text[-200:]}")
    return f"none in {len(answers)} errors"


@rule(
    Needs.SERVER,
    advice="answer with a short JSON object: code, message, request id",
    source="ModelError: Message has at most 2048 characters",
)
def short_errors(subject: Subject) -> str:
    """An error has a message, of at most the 2048 characters that clients are shown."""
    refusals = {name: one for name, one in subject.servers.refusals.items() if not one.good}
    bad = [
        f"{name}: {one.status} with {len(one.text)} characters"
        for name, one in refusals.items()
        if not 0 < len(one.text.strip()) <= MESSAGE_CHARACTERS
    ]
    if bad:
        raise Broken("; ".join(bad))
    return (
        f"{len(refusals)} errors of at most {max(map(len, _texts(refusals)), default=0)} characters"
    )


def _texts(answers: dict[str, Answer]) -> list[str]:
    return [answer.text for answer in answers.values()]


@rule(
    Needs.FURTHER,
    advice="answer 400 for what a client did wrong alone; everything else is 500",
    source="aws/sagemaker-huggingface-inference-toolkit#79: every exception is a 400",
)
def own_faults(subject: Subject) -> str:
    """A fault of the inference code is answered with 5xx, not as if it were the client's."""
    fault = subject.servers.fault
    if fault is None:
        raise NotApplicable("it does not run code/inference.py, so no fault can be made")
    if fault.status < 500:
        raise Broken(str(fault))
    return str(fault)


@rule(
    Needs.FURTHER,
    advice="load the model before anything else, and end with a status that is not 0 if that "
    "fails, with the cause as the last line",
    source="your-algorithms-inference-code: health checks; awslabs/multi-model-server#1027",
)
def serve_ends_without_model(subject: Subject) -> str:
    """A server ends with a status other than 0 where its model cannot be loaded."""
    source = subject.model
    if source is None or not any(source.iterdir()):
        raise NotApplicable("there is no model to spoil; give --model")
    subject.servers.require_answers()
    spoilt = subject.new_directory("spoilt") / "model"
    shutil.copytree(source, spoilt)
    for path in spoilt.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * 64)
    server = subject.servers.start(model=spoilt, limit=subject.servers.patience, sample=True)
    try:
        return _ended(server)
    finally:
        server.close()


def _ended(server: Server) -> str:
    code = server.program.returncode
    if server.ready and server.settled.good:
        raise NotApplicable("it answers as well with files of noise: it does not read its model")
    if code == 0:
        raise Broken(f"exit status 0: {server}")
    if code is None:
        raise Broken(f"with files of noise for a model it goes on: {server}")
    return str(server)
