"""Servers of an image, with a model: one as strict as it stands, and special ones."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_test.conformance.client import Answer, Half
from local_test.conformance.footprint import LIST_PROCESSES, Footprint, footprint
from local_test.conformance.load import Load, load
from local_test.conformance.rules import NotApplicable
from local_test.conformance.samples import Sample
from local_test.conformance.secret import SECRET
from local_test.conformance.server import Server
from local_test.conformance.trials import Trials, search
from local_test.hosting import GRACE, MODES, free_port
from local_test.programs import PORT, Mount, Surroundings

if TYPE_CHECKING:
    from local_test.conformance.subject import Subject

__all__ = ["DEMANDS", "Servers", "Stop"]

DEMANDS = (
    "serve-offline", "serve-read-only-root", "serve-read-only-model", "serve-any-user",
    "serve-empty-variables",
)  # fmt: skip
"""Rules whose demands one server is put under, all together where it stands that."""

VARIABLES = {
    "SAGEMAKER_PROGRAM": "",
    "SAGEMAKER_SUBMIT_DIRECTORY": "",
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
    "SAGEMAKER_REGION": "eu-central-1",
}
"""As SDK 2 sets them for a model without code of its own."""

ENVIRONMENT = {"AWS_REGION": "eu-central-1", **SECRET}
BATCH = {
    "SAGEMAKER_BATCH": "true",
    "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "100",
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1",
}
"""As a transform job sets them, where its user wishes for the most."""

BROKEN_JSON = b'{"inputs": ["a text", '
FAULTY = """\
def model_fn(model_dir, *context):
    return object()


def input_fn(body, content_type, *context):
    return body


def predict_fn(data, model, *context):
    raise RuntimeError("conform: this code is at fault")


def output_fn(prediction, accept, *context):
    return prediction
"""
"""A user's code in the form that AWS's inference toolkits run, and ours."""

LOADS = 3
HALF_WAY_SECONDS = 0.5
"""From the first half of a request to SIGTERM, and from there to the second half."""


@dataclass(frozen=True)
class Stop:
    """How a server ended on SIGTERM."""

    grace: float
    seconds: float
    code: int | None
    process_1: str
    last: Answer
    """To a request whose second half came after the signal."""


class Servers:
    """The servers that rules look at, started when the first rule asks for them."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._options = subject.options
        self._best: Server | None = None
        self._started: list[Server] = []
        self._trials: Trials[Server] | None = None
        self._sample_is_refused = False

    @property
    def trials(self) -> Trials[Server]:
        """Servers under the demands that were asked for.

        Raises:
            NotApplicable: none becomes healthy, for want of a model.
        """
        if self._trials is None:
            demands = [demand for demand in DEMANDS if demand in self._options.rules]
            self._trials = search(demands, self._under, self._is_fine)
        if not self._trials.works and not self._subject.model:
            raise NotApplicable("it serves nothing without a model; give --model")
        return self._trials

    @property
    def main(self) -> Server:
        """A healthy server under all demands that it stands.

        Raises:
            NotApplicable: there is none.
        """
        if not self.trials.works:
            raise NotApplicable("no server became healthy (rule serve-becomes-healthy)")
        if self._best is None or not self._best.alive:
            if self._best:
                self._best.close()
            self._best = self._under(self.trials.kept)
            if not self._best.ready:
                raise NotApplicable("the server was lost to an earlier rule, and does not return")
        return self._best

    @property
    def answering(self) -> Server:
        """The main server, which answers the sample.

        Raises:
            NotApplicable: it does not, or there is none.
        """
        self.require_answers()
        return self.main

    def require_answers(self) -> None:
        """Raise NotApplicable unless there is a server that answers the sample."""
        if not self.trials.works:
            raise NotApplicable("no server became healthy (rule serve-becomes-healthy)")
        told = self.trials.best.settled
        if not told.good:
            raise NotApplicable(f"no sample is known that it answers, give --sample (got {told})")

    def start(
        self,
        demands: frozenset[str] | None = None,
        environment: Mapping[str, str] | None = None,
        model: Path | None = None,
        port: int = PORT,
        target: str = "/opt/ml/model",
        limit: float | None = None,
        sample: bool = True,
    ) -> Server:
        """Start a server, wait until it is healthy or not, and return it; `close` ends it."""
        demands = self.trials.kept if demands is None else demands
        read_only = "serve-read-only-model" in demands
        source = model or self._subject.model or self._subject.new_directory("no-model")
        if not read_only:
            source = shutil.copytree(source, self._subject.new_directory("ml") / "model")
            for path in (source, *source.rglob("*")):
                path.chmod(0o777)
        surroundings = Surroundings(
            environment={
                **ENVIRONMENT,
                **(VARIABLES if "serve-empty-variables" in demands else {}),
                **self._options.environment,
                **(environment or {}),
            },
            mounts=[Mount(source, target, read_only)],
            network=self._subject.network if "serve-offline" in demands else "bridge",
            read_only="serve-read-only-root" in demands,
            user=MODES["serverless"].user if "serve-any-user" in demands else "",
            base=source.parent,
        )
        if self._subject.bare and port == PORT:
            port = free_port()
        server = Server(self._subject.start("serve", surroundings, port), demands, port)
        self._started.append(server)
        server.come_up(limit or self._options.startup, self._options.sample if sample else None)
        self._subject.check_engine(server.program)
        return server

    @cached_property
    def load(self) -> Load:
        """What many clients at once see; where they wait, again, as this machine may be busy."""
        for _ in range(LOADS):
            seen = load(self.answering, self._options.sample, self._footprint)
            if not seen.lost and not seen.late:
                break
        return seen

    def _footprint(self, server: Server) -> Footprint | None:
        if self._subject.bare:
            return None
        return footprint(self._subject.shell(server.program, LIST_PROCESSES))

    @cached_property
    def refusals(self) -> dict[str, Answer]:
        """Answers to requests that are wrong in different ways."""
        server, sample = self.answering, self._options.sample
        wrong = {
            "a body that is no JSON": Sample(BROKEN_JSON, "application/json"),
            "bytes": Sample(bytes(range(128, 256)), sample.content_type),
            "an empty body": Sample(b"", sample.content_type),
            "an unknown type": Sample(sample.body, "application/x-conform-unknown"),
        }
        return {name: server.invoke(one) for name, one in wrong.items()}

    @cached_property
    def fault(self) -> Answer | None:
        """What the sample gets where a user's code is at fault; None if it runs no such code."""
        if not self._subject.model:
            return None
        self.require_answers()
        directory = shutil.copytree(
            self._subject.model, self._subject.new_directory("faulty") / "model"
        )
        (directory / "code").mkdir(exist_ok=True)
        (directory / "code/inference.py").write_text(FAULTY, encoding="utf-8")
        server = self.special({}, model=directory, sample=False)
        answer = server.invoke(self._options.sample) if server.ready else None
        server.close()
        return None if answer is None or answer.good else answer

    @cached_property
    def batch(self) -> Server:
        """A server of a batch transform job.

        Raises:
            NotApplicable: it does not become healthy.
        """
        server = self.special(BATCH)
        if not server.ready:
            raise NotApplicable(f"a server with SAGEMAKER_BATCH=true is {server}")
        return server

    @cached_property
    def stopped(self) -> Stop:
        """A server that gets SIGTERM in the middle of a request."""
        server, sample = self.main, self._options.sample
        process_1 = self._subject.process_1(server.program)
        half = Half(server.place, "/invocations", sample.body, sample.headers)
        time.sleep(HALF_WAY_SECONDS)
        answers: list[Answer] = []

        def finish() -> None:
            time.sleep(HALF_WAY_SECONDS)
            answers.append(half.finish())

        client = threading.Thread(target=finish)
        client.start()
        grace = self._options.grace or GRACE
        seconds = server.program.stop(grace)
        client.join()
        return Stop(grace, seconds, server.program.returncode, process_1, answers[0])

    def special(self, environment: Mapping[str, str], **options: Any) -> Server:
        """Start a server as `start` does, under the main one's demands and with its patience.

        Raises:
            NotApplicable: there is no main one that is healthy.
        """
        if not self.trials.works:
            raise NotApplicable("no server became healthy (rule serve-becomes-healthy)")
        return self.start(environment=environment, limit=self.patience, **options)

    @property
    def patience(self) -> float:
        """Seconds after which a server that is like the main one will not come up any more."""
        return min(self._options.startup, 20.0 + 4 * self.trials.best.start_seconds)

    def close(self) -> None:
        for server in self._started:
            server.close()

    def _under(self, demands: frozenset[str]) -> Server:
        return self.start(demands)

    def _is_fine(self, server: Server) -> bool:
        if server.ready and not server.demands and not server.settled.good:
            self._sample_is_refused = True
        fine = server.ready and (server.settled.good or self._sample_is_refused)
        loser = self._best if fine else server
        if loser:
            loser.close()
        if fine:
            self._best = server
        return fine
