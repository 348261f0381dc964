"""Rules for a server that many clients ask at once."""

from __future__ import annotations

from collections import Counter

from local_test.conformance.load import CLIENTS, all_at_once
from local_test.conformance.rules import Broken, Needs, NotApplicable, rule
from local_test.conformance.samples import alike
from local_test.conformance.subject import Subject
from local_test.hosting import PING_LIMIT

VARIANTS = 16
ROUNDS = 6
BUSY = (429, 503)


@rule(
    Needs.SERVER,
    advice="answer /ping on a thread or worker that predictions never occupy",
    source="your-algorithms-inference-code: a ping attempt has 2 seconds",
)
def ping_under_load(subject: Subject) -> str:
    """/ping is answered with 200 within 2 seconds also while 64 clients ask."""
    pings, lost = subject.servers.load.pings, subject.servers.load.lost
    slowest = max(ping.seconds for ping in pings)
    if lost:
        raise Broken(f"{len(lost)} of {len(pings)} pings failed in {PING_LIMIT:g} s: {lost[0]}")
    return f"the slowest of {len(pings)} pings took {slowest:.3f} s"


@rule(
    Needs.SERVER,
    advice="accept on a thread of its own, with a backlog of hundreds",
    source="your-algorithms-inference-code: accept socket connection requests within 250 ms",
)
def accepts_under_load(subject: Subject) -> str:
    """Connections are accepted within 250 milliseconds also while 64 clients ask."""
    times, late = sorted(subject.servers.load.connections), subject.servers.load.late
    # A busy machine may hold up one or two of ours.
    if len(late) > len(times) // 10:
        raise Broken(f"{len(late)} of {len(times)} later, the last after {times[-1]:.2f} s")
    return f"the slowest of {len(times)} took {times[-1] * 1000:.0f} ms"


@rule(
    Needs.SERVER,
    advice="answer, or refuse at once with 503 or 429; never close or reset a connection",
    source="your-algorithms-inference-code; InvokeEndpoint: ModelError",
)
def answers_under_load(subject: Subject) -> str:
    """Each request of 64 clients is answered within 60 seconds, or refused with 503 or 429."""
    answers = subject.servers.load.answers
    counts = Counter(answer.status for answer in answers)
    bad = [answer for answer in answers if not answer.good and answer.status not in BUSY]
    if bad:
        raise Broken(f"{len(bad)} of {len(answers)} failed, such as: {bad[0]}")
    seen = ", ".join(f"{count} times {status}" for status, count in sorted(counts.items()))
    return f"{seen} for {CLIENTS} clients"


@rule(
    Needs.SERVER,
    advice="load the model once, in one worker, or before others are forked from it",
    source="serverless-endpoints: memory size; one worker and one copy of the model",
    contained=True,
)
def memory_under_load(subject: Subject) -> str:
    """While 64 clients ask, a server takes no more memory than a serverless endpoint can have."""
    seen, limit = subject.servers.load.footprint, subject.options.memory
    if seen is None:
        raise NotApplicable("its processes are not seen: it has no shell to list them")
    if seen.memory > limit:
        raise Broken(f"{seen}; the limit is {limit:.0f} MB")
    return str(seen)


@rule(
    Needs.SERVER,
    advice="keep nothing of a request in global state; give each its own part of a batch",
    source="what a batching or threaded server must be proved to do",
)
def answers_kept_apart(subject: Subject) -> str:
    """Clients that ask at the same time get each their own answer."""
    server = subject.servers.answering
    samples = subject.options.sample.variants(VARIANTS)
    alone = {sample: server.invoke(sample) for sample in samples}
    samples = [sample for sample in samples if alone[sample].good]
    if len({alone[sample].body for sample in samples}) < 2:
        raise NotApplicable("no two bodies are known with different answers; give --sample")
    first = samples[0]
    if not alike(alone[first].body, server.invoke(first).body):
        raise NotApplicable("the same body gets another answer each time")
    got = all_at_once(server, samples, ROUNDS)
    wrong = [
        (sample, answer)
        for sample, answer in got
        if answer.status not in BUSY and not alike(answer.body, alone[sample].body)
    ]
    if wrong:
        sample, answer = wrong[0]
        raise Broken(f"{len(wrong)} of {len(got)} differ: {answer}, alone {alone[sample]}")
    return f"{len(got)} answers of {len(samples)} different bodies are the same as alone"
