"""Rules for what a server reads: types, sizes, forms of transfer."""

from __future__ import annotations

import time
from contextlib import suppress

from local_test.conformance.client import Answer, Half, ask, in_pieces
from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.samples import Sample, alike
from local_test.conformance.server import Server
from local_test.conformance.subject import Subject

MB = 1_000_000
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
UNPICKLED = b"conform-unpickled\n"
OBJECTS = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
PICKLED = b"\x80\x03cposix\nwrite\nK\x02C" + bytes([len(UNPICKLED)]) + UNPICKLED + b"\x86R."
"""A pickle of what `os.write(2, UNPICKLED)` returns."""
PICKLED_ARRAY = b"\x93NUMPY\x01\x00" + len(OBJECTS).to_bytes(2, "little") + OBJECTS + PICKLED
"""An array of one object in numpy's format."""
ODD_TEXTS = {
    "empty": "",
    "blanks": "   ",
    "emoji": "\N{FIRE}\N{FAMILY}\N{ZERO WIDTH JOINER}\N{SPARKLES}",
    "right to left": "\N{HEBREW LETTER ALEF}\N{ARABIC LETTER BEH}",
    "3000 words": "flood " * 3000,
    "a character of control": "a\u0000b",
}


def _same(subject: Subject, **headers: str | None) -> str:
    """Check that the sample is answered the same with other headers; None leaves one out."""
    server = subject.servers.answering
    sample = subject.options.sample
    sent = {**sample.headers, **headers}
    kept = {name: value for name, value in sent.items() if value is not None}
    return _compared(server.ask("POST", "/invocations", sample.body, kept), subject)


def _compared(answer: Answer, subject: Subject) -> str:
    usual = subject.servers.trials.best.settled
    if not answer.good:
        raise Broken(f"the sample got {answer}")
    if not alike(answer.body, usual.body):
        raise Broken(f"the sample got {answer} rather than {usual}")
    return str(answer)


@rule(
    Needs.SERVER,
    advice="parse Content-Type: take the part before the semicolon, and decode by charset",
    source="aws/sagemaker-xgboost-container#51, #223; RFC 9110, media types",
)
def content_type_charset(subject: Subject) -> str:
    """A Content-Type with the parameter charset=utf-8 is read as without it."""
    return _same(
        subject, **{"Content-Type": f"{subject.options.sample.content_type}; charset=utf-8"}
    )


@rule(
    Needs.SERVER,
    advice="compare media types in lower case",
    source="RFC 9110, media types",
)
def content_type_case(subject: Subject) -> str:
    """A Content-Type in capitals is read as in lower case."""
    return _same(subject, **{"Content-Type": subject.options.sample.content_type.upper()})


@rule(
    Needs.SERVER,
    advice="answer a type that cannot be read with 415, and name those that can",
    source="InvokeEndpoint: ContentType; RFC 9110, 415",
)
def content_type_unknown(subject: Subject) -> str:
    """A Content-Type that cannot be read is answered with 415."""
    answer = subject.servers.answering.invoke(
        subject.options.sample, {"Content-Type": "application/x-conform-unknown"}
    )
    if answer.status != 415:
        raise Broken(str(answer))
    return str(answer)


@rule(
    Needs.SERVER,
    advice="take a missing Content-Type for the one that the model reads, or answer with 415",
    source="InvokeEndpoint: ContentType is optional",
)
def content_type_missing(subject: Subject) -> str:
    """A request without Content-Type is answered, or refused with 4xx."""
    server = subject.servers.answering
    answer = server.ask("POST", "/invocations", subject.options.sample.body, {})
    if not 200 <= answer.status < 500:
        raise Broken(str(answer))
    return str(answer)


@rule(
    Needs.SERVER,
    advice="take a missing Accept for */*",
    source="InvokeEndpoint: Accept is optional; aws/sagemaker-python-sdk#4869",
)
def accept_missing(subject: Subject) -> str:
    """A request without Accept, and one that accepts anything, are answered alike."""
    server = subject.servers.answering
    answer = server.invoke(subject.options.sample, {"Accept": "*/*"})
    return _compared(answer, subject)


@rule(
    Needs.SERVER,
    advice="parse Accept as a list with q-values, and take the best type that can be written",
    source="aws/sagemaker-inference-toolkit#10; RFC 9110, Accept",
)
def accept_list(subject: Subject) -> str:
    """An Accept that is a list with q-values is understood."""
    server = subject.servers.answering
    accept = "image/x-conform;q=0.9, */*;q=0.1"
    return _compared(server.invoke(subject.options.sample, {"Accept": accept}), subject)


@rule(
    Needs.SERVER,
    advice="answer with 406 and name the types that can be written",
    source="InvokeEndpoint: Accept; RFC 9110, 406",
)
def accept_unknown(subject: Subject) -> str:
    """An Accept of which nothing can be written is answered with 406."""
    server = subject.servers.answering
    answer = server.invoke(subject.options.sample, {"Accept": "image/x-conform"})
    if answer.status != 406:
        raise Broken(str(answer))
    return str(answer)


@rule(
    Needs.SERVER,
    advice="set the answer's Content-Type to what was written",
    source="InvokeEndpoint: ContentType of the response",
)
def answer_has_type(subject: Subject) -> str:
    """The answer has a Content-Type."""
    kind = subject.servers.trials.best.settled.headers.get("content-type", "")
    subject.servers.require_answers()
    if not kind:
        raise Broken("none")
    return kind


@rule(
    Needs.SERVER,
    advice="raise the limit of every server in the chain (nginx: client_max_body_size)",
    source="hosting-faqs: payload of 25 MB; aws/amazon-sagemaker-examples#1822",
)
def body_of_25_mb(subject: Subject) -> str:
    """A body of 25 MB is read, which real-time endpoints allow."""
    return large_body(subject, subject.servers.answering, 25)


def large_body(subject: Subject, server: Server, megabytes: int) -> str:
    """Check that a server reads the sample, made as large as that."""
    sample = subject.options.sample
    body = sample.padded(megabytes * MB)
    answer = server.ask("POST", "/invocations", body, sample.headers)
    if sample.is_json:
        return _compared(answer, subject)
    # Rows enough for so many bytes may be more than a model answers in time.
    if answer.status == 413 or not (answer.status or "timed out" in answer.error):
        raise Broken(f"{megabytes} MB got {answer}")
    return str(answer)


@rule(
    Needs.SERVER,
    advice="read bodies with Transfer-Encoding: chunked; put a server in front that does",
    source="batch-transform: MaxPayloadInMB 0 sends the object in chunks",
)
def body_in_chunks(subject: Subject) -> str:
    """A body in chunks, without Content-Length, is read."""
    server, sample = subject.servers.answering, subject.options.sample
    pieces = in_pieces(sample.body)
    return _compared(ask(server.place, "POST", "/invocations", pieces, sample.headers), subject)


@rule(
    Needs.SERVER,
    advice="give up a request of which the connection is closed, and go on with others",
    source="your-algorithms-inference-code",
)
def body_that_breaks_off(subject: Subject) -> str:
    """A client that is lost in the middle of its body harms no other."""
    server, sample = subject.servers.answering, subject.options.sample
    for _ in range(4):
        with suppress(OSError):  # whether it is gone is seen below
            Half(server.place, "/invocations", sample.body, sample.headers).give_up()
    return _compared(server.invoke(sample), subject)


@rule(
    Needs.SERVER,
    advice="answer each with a prediction or a 4xx that says what is wrong",
    source="InvokeEndpoint: ModelError; a 5xx counts as a fault of the endpoint",
)
def odd_texts(subject: Subject) -> str:
    """Texts that are empty, long or odd are answered or refused, but are no fault of the server."""
    server, got = subject.servers.answering, {}
    for name, text in ODD_TEXTS.items():
        sample = subject.options.sample.with_text(text)
        if sample is None:
            raise NotApplicable("the sample has no text")
        got[name] = server.invoke(sample)
    bad = [f"{name}: {answer}" for name, answer in got.items() if not 200 <= answer.status < 500]
    if bad:
        raise Broken("; ".join(bad))
    return ", ".join(f"{name} {answer.status}" for name, answer in got.items())


@rule(
    Needs.SERVER,
    advice=f"copy {ATTRIBUTES} from the request to the answer; the platform does not",
    source="InvokeEndpoint: CustomAttributes",
)
def custom_attributes(subject: Subject) -> str:
    """Custom attributes come back as they were sent."""
    server = subject.servers.answering
    answer = server.invoke(subject.options.sample, {ATTRIBUTES: "trace=conform-1"})
    got = answer.headers.get(ATTRIBUTES.lower())
    if got != "trace=conform-1":
        raise Broken(f"sent trace=conform-1, got {got or 'nothing'}")
    return got


@rule(
    Needs.SERVER,
    advice=f"log a line with {INFERENCE_ID} for each request that has one",
    source="InvokeEndpoint: InferenceId; model-monitor-data-capture",
)
def inference_id(subject: Subject) -> str:
    """The inference id of a request is in the log."""
    server = subject.servers.answering
    server.invoke(subject.options.sample, {INFERENCE_ID: "conform-inference-7"})
    for _ in range(50):
        found = [line for line in server.program.lines if "conform-inference-7" in line]
        if found:
            return found[0][:200]
        time.sleep(0.1)
    raise Broken("not in the log")


@rule(
    Needs.SERVER,
    advice="read arrays with numpy.load(..., allow_pickle=False), which is numpy's default",
    source="aws/sagemaker-inference-toolkit: decoder.py allows pickles; numpy.load: security",
)
def npy_without_pickle(subject: Subject) -> str:
    """An array of objects is refused with 4xx: to read it is to run what code the client wrote."""
    server = subject.servers.answering
    answer = server.invoke(Sample(PICKLED_ARRAY, "application/x-npy"))
    if answer.status == 415:
        raise NotApplicable(f"arrays are not read: {answer}")
    time.sleep(0.5)  # what is written has a way to go until it is seen here
    if any(UNPICKLED.decode().strip() in line for line in server.program.lines):
        raise Broken(f"code in the body was run; then it got {answer}")
    if not 400 <= answer.status < 500:
        raise Broken(str(answer))
    return str(answer)
