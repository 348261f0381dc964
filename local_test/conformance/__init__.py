"""Hold an image against the rules of Amazon SageMaker's contract, and say what to change.

    python -m local_test conform my-image:1 --model model.tar.gz --sample payload.json
    python -m local_test conform my-image:1 --data train=train.csv --hyperparameter epochs=1
    python -m local_test conform                              # the bare programs of this repository

Each rule is passed, failed, or not applicable, with the reason. Jobs and servers are shared by the
rules, and run under all demands at once (no network, read-only root, any user ...); where one fails
under all, each demand is tried alone. docs/local_test.md lists the rules.

Exit status: 0 if no rule failed, 1 if some did, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from local_test.arguments import ArgumentError, add_pairs, engine_for, pairs, say
from local_test.conformance import (  # noqa: F401 - rules register themselves
    error_rules,
    further_rules,
    image_rules,
    load_rules,
    payload_rules,
    serving_rules,
    training_rules,
)
from local_test.conformance.results import Result, Verdict, as_json, as_junit, as_table
from local_test.conformance.rules import RULES, Rule, chosen, judge
from local_test.conformance.samples import DEFAULT, MESSAGES, TYPES, Sample, read
from local_test.conformance.subject import Options, Subject
from local_test.programs import Engine, EngineError, find_engine

__all__ = ["BARE", "add_arguments", "conform", "run", "table"]

BARE = "the bare programs"
"""What is judged where no image is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE",
                        help="an image on this machine; left out: the bare `train` and `serve` of "
                        "this repository, by the rules that they can be held to")  # fmt: skip
    parser.add_argument("--train", action="store_true", help="it trains (default: found out)")
    parser.add_argument("--serve", action="store_true", help="it serves (default: found out)")
    parser.add_argument("--model", type=Path, metavar="PATH",
                        help="model.tar.gz or a directory (default: what a job made)")  # fmt: skip
    add_pairs(parser, "data", "CHANNEL=PATH", "a file or directory to train on (default: the "
              f"channel train with {MESSAGES.name}, texts with labels)")  # fmt: skip
    add_pairs(parser, "hyperparameter", "KEY=VALUE", "for all jobs")
    add_pairs(parser, "stop-hyperparameter", "KEY=VALUE",
              "for the job that is stopped, which should last minutes otherwise")  # fmt: skip
    add_pairs(parser, "environment", "KEY=VALUE", "a variable of the containers")
    parser.add_argument("--sample", type=Path, metavar="FILE",
                        help=f"a body it answers (default: {DEFAULT.body.decode()})")  # fmt: skip
    parser.add_argument("--content-type", metavar="TYPE",
                        help="of the sample (default: by the file's ending)")  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="RULE",
                        help="only this rule, or these: serve-*; may be repeated")  # fmt: skip
    parser.add_argument("--except", action="append", default=[], metavar="RULE", dest="without",
                        help="leave this rule out, or these; may be repeated")  # fmt: skip
    parser.add_argument("--startup", type=float, default=480.0, metavar="SECONDS",
                        help="until a server must be healthy (default: 480)")  # fmt: skip
    parser.add_argument("--max-runtime", type=float, default=900.0, metavar="SECONDS",
                        help="in which a job must end (default: 900)")  # fmt: skip
    parser.add_argument("--memory", type=float, default=6144.0, metavar="MB",
                        help="that a server may take (default: 6144, the most that a serverless "
                        "endpoint has)")  # fmt: skip
    parser.add_argument("--grace", type=float, metavar="SECONDS",
                        help="from SIGTERM to SIGKILL (default: the platform's, 120 s for a job "
                        "and 30 s for a server)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write them as JUnit's XML")


def run(arguments: argparse.Namespace) -> int:
    rules = _rules(arguments.only, arguments.without)
    options = _options(arguments, rules)
    results = conform(_engine(arguments.image), options, rules)
    if arguments.json:
        arguments.json.write_text(as_json(options.image, results), encoding="utf-8")
    if arguments.junit:
        arguments.junit.write_text(as_junit(options.image, results), encoding="utf-8")
    print(as_table(results))
    return int(any(result.verdict is Verdict.FAILED for result in results))


def conform(engine: Engine | None, options: Options, rules: list[Rule]) -> list[Result]:
    """Return what comes of the rules, in their order; without an engine, for the bare programs."""
    if engine is None:
        kept = options.rules - {one.id for one in rules if one.contained}
        options = replace(options, rules=kept)
    # What a container writes as root stays behind where the user is not root.
    with (
        tempfile.TemporaryDirectory(prefix="conform-", ignore_cleanup_errors=True) as directory,
        engine.network() if engine else nullcontext("") as network,
    ):
        subject = Subject(engine, options, Path(directory), network)
        try:
            say(f"{options.image}: {' and '.join(sorted(subject.abilities))}")
            results = []
            for one in rules:
                results.append(judge(one, subject))
                if results[-1].verdict is not Verdict.NOT_APPLICABLE:
                    say(f"{one.id} {results[-1].verdict.value}")
            return results
        finally:
            subject.close()


def table() -> list[tuple[str, str, str, str]]:
    """Return id, sentence, need and source of every rule, for the documentation."""
    return [(one.id, one.text, one.needs.value, one.source) for one in _rules([], [])]


def _engine(image: str | None) -> Engine | None:
    """Return the engine that has the image; None where none is named.

    Raises:
        EngineError: no engine answers, and what the bare programs do says nothing of an image.
    """
    if not image:
        return engine_for(None)
    engine = find_engine()
    if not engine:
        raise EngineError(
            "no container engine answers; start Docker or Podman to judge an image, or name none "
            "to judge the bare programs of this repository"
        )
    engine.require(image)
    return engine


def _rules(only: list[str], without: list[str]) -> list[Rule]:
    try:
        return chosen(only, without)
    except LookupError as error:
        pattern = str(error.args[0])
        near = difflib.get_close_matches(pattern, [one.id for one in RULES], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "docs/local_test.md lists them"
        raise ArgumentError(f'no rule is called "{pattern}"; {hint}') from error


def _options(arguments: argparse.Namespace, rules: list[Rule]) -> Options:
    data = {name: Path(path) for name, path in pairs("data", arguments.data).items()}
    for path in [*data.values(), *filter(None, [arguments.model, arguments.sample])]:
        if not path.exists():
            raise ArgumentError(f"{path} does not exist")
    return Options(
        image=arguments.image or BARE,
        rules=frozenset(one.id for one in rules),
        train=arguments.train,
        serve=arguments.serve,
        model=arguments.model,
        data=data or {"train": MESSAGES},
        hyperparameters=pairs("hyperparameter", arguments.hyperparameter),
        stop_hyperparameters=pairs("stop-hyperparameter", arguments.stop_hyperparameter),
        environment=pairs("environment", arguments.environment),
        sample=_sample(arguments.sample, arguments.content_type),
        grace=arguments.grace,
        startup=arguments.startup,
        max_runtime=arguments.max_runtime,
        memory=arguments.memory,
    )


def _sample(path: Path | None, content_type: str | None) -> Sample:
    if path is None:
        if content_type:
            raise ArgumentError("--content-type belongs to a --sample, and there is none")
        return DEFAULT
    content_type = content_type or TYPES.get(path.suffix)
    if not content_type:
        raise ArgumentError(f"say the --content-type of {path}; known endings: {', '.join(TYPES)}")
    try:
        return read(path, content_type)
    except ValueError as error:
        raise ArgumentError(f"--sample {path}: {error}") from error


if __name__ == "__main__":
    sys.exit("type: python -m local_test conform --help")
