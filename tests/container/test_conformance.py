"""`conform` on images that are broken on purpose: each fault is seen by its rule, and no other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from local_test.conformance import conform
from local_test.conformance.results import Result, Verdict
from local_test.conformance.rules import Needs, Rule, chosen, judge
from local_test.conformance.samples import DEFAULT, Sample
from local_test.conformance.subject import Options, Subject
from local_test.programs import Engine, EngineError, find_engine
from tests.container.running import wait_for

pytestmark = pytest.mark.container

Docker = Callable[..., subprocess.CompletedProcess[str]]
Build = Callable[..., str]

FAULTY = Path(__file__).parent / "faulty"
NGINX = Path(__file__).parent / "nginx_gunicorn"
MULTI_MODEL_SERVER = Path(__file__).parent / "multi_model_server"
DOCS = Path(__file__).resolve().parents[2] / "docs/local_test.md"

SLOW_RULES = {
    *("ping-under-load", "accepts-under-load", "answers-under-load", "answers-kept-apart"),
    "memory-under-load",
    *("body-of-25-mb", "own-faults", "no-tracebacks"),
    *("train-empty-hyperparameters", "train-starts-again", "train-ends-on-sigterm"),
    *("train-second-sigterm", "train-damaged-checkpoint"),
    *("train-two-instances", "train-pipe-input", "train-script"),
}
"""Those that need seconds, or a job or server of their own: for their own faults alone."""

SERVING_FAULTS = {
    "downloads": "serve-offline",
    "writes-to-root": "serve-read-only-root",
    "writes-to-model": "serve-read-only-model",
    "needs-root": "serve-any-user",
    "takes-empty-for-set": "serve-empty-variables",
    "prints-environment": "serve-keeps-secrets",
    "ping-before-load": "ping-means-ready",
    "ping-with-body": "ping-empty",
    "ping-by-get-alone": "ping-methods",
    "predicts-one-at-a-time": "ping-under-load",
    "accepts-late": "ping-under-load accepts-under-load",
    "resets-when-busy": "answers-under-load",
    "a-model-a-process": "memory-under-load",
    "mixes-answers": "answers-kept-apart",
    "charset-unparsed": "content-type-charset",
    "types-have-case": "content-type-case",
    "needs-a-type": "content-type-missing",
    "400-for-unknown-types": "content-type-unknown",
    "accept-compared-whole": "accept-list",
    "accept-ignored": "accept-unknown",
    "refuses-any-type": "accept-missing",
    "never-healthy": "serve-becomes-healthy",
    "has-no-invocations": "serve-answers",
    "answers-without-type": "answer-has-type",
    "limits-bodies-to-5-mb": "body-of-25-mb body-of-100-mb",
    "reads-no-chunks": "body-in-chunks",
    "dies-of-broken-bodies": "body-that-breaks-off",
    "fails-on-empty-text": "odd-texts",
    "drops-attributes": "custom-attributes",
    "logs-no-ids": "inference-id",
    "500-for-broken-json": "broken-body",
    "answers-with-traceback": "no-tracebacks",
    "long-errors": "short-errors",
    "takes-own-faults-for-clients": "own-faults",
    "stays-without-model": "serve-ends-without-model",
    "ignores-sigterm": "serve-ends-on-sigterm",
    "ends-with-143": "serve-ends-with-0",
    "drops-requests-in-flight": "requests-in-flight",
    "port-is-fixed": "bind-to-port",
    "odd-execution-parameters": "execution-parameters",
    "joins-lines": "lines-of-json",
    "joins-rows": "rows-of-csv",
    "unpickles": "npy-without-pickle",
    "outlives-its-worker": "serve-survives-kill",
}
"""By fault, the rules that see it."""

WAITED_FOR = ("port-is-fixed", "stays-without-model", "never-healthy")
"""Faults that are seen when nothing has come for as long as a start may take."""

TRAINING_FAULTS = {
    "always-fails": "train-completes",
    "downloads": "train-offline",
    "writes-to-root": "train-read-only-root",
    "writes-to-input": "train-read-only-input",
    "takes-quotes-for-text": "train-quoted-hyperparameters",
    "refuses-reserved-hyperparameters": "train-reserved-hyperparameters",
    "needs-optional-resources": "train-lean-resources",
    "needs-hyperparameters": "train-empty-hyperparameters",
    "prints-hyperparameters-and-environment": "train-keeps-secrets",
    "no-model": "train-writes-model",
    "model-with-links": "train-model-without-links",
    "failure-file-on-success": "train-no-failure-on-success",
    "starts-only-once": "train-starts-again",
    "fails-with-status-0": "train-failure-status",
    "no-failure-file": "train-failure-file",
    "long-failure": "train-failure-length",
    "traceback-first": "train-failure-cause",
    "ignores-sigterm": "train-ends-on-sigterm",
    "trusts-checkpoints": "train-damaged-checkpoint",
    "leaves-in-haste": "train-second-sigterm",
    "knows-one-host": "train-two-instances",
    "waits-for-files": "train-pipe-input",
    "tells-scripts-no-channels": "train-script",
}


@pytest.fixture(scope="module")
def engine(docker: Docker) -> Engine:
    found = find_engine()
    assert found
    return found


@pytest.fixture(scope="module")
def build(docker: Docker, image: Callable[[str], str]) -> Iterator[Build]:
    """Yield a function from build arguments to an image of the faulty programs."""
    prefix = f"test-conform-{uuid.uuid4().hex[:8]}"
    built: list[str] = []
    options = ("build", "--quiet", "--build-arg", f"BASE={image('serve')}")

    def make(*arguments: str) -> str:
        built.append(f"{prefix}:{len(built)}")
        pairs = [word for argument in arguments for word in ("--build-arg", argument)]
        docker(*options, *pairs, "--tag", built[-1], str(FAULTY))
        return built[-1]

    yield make
    if built:
        docker("image", "rm", "--force", *built)


@pytest.fixture(scope="module")
def mirror(docker: Docker, image: Callable[[str], str]) -> Iterator[dict[str, str]]:
    """Yield the variable that names a host in reach of containers with a network, and no others."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    server = ("python3", "-m", "http.server", "8080")
    docker("run", "--detach", "--name", name, image("serve"), *server)
    form = "{{.NetworkSettings.IPAddress}}"
    yield {"MIRROR": docker("inspect", f"--format={form}", name).stdout.strip()}
    docker("rm", "--force", name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    (directory / "model.json").write_text('{"words": 7}')
    return directory


def rules_for(needs: set[Needs], *further: str) -> list[Rule]:
    """Return the quick rules of these needs, and further ones."""
    return [
        one
        for one in chosen([], [])
        if (one.needs in needs and one.id not in SLOW_RULES) or one.id in further
    ]


def judged(engine: Engine, image: str, rules: list[Rule], **told: object) -> list[Result]:
    ids = frozenset(one.id for one in rules)
    limits = {"startup": 20, "grace": 10, **told}
    return conform(engine, Options(image=image, rules=ids, **limits), rules)  # type: ignore[arg-type]


def failed(results: list[Result]) -> dict[str, str]:
    return {one.rule: one.seen for one in results if one.verdict is Verdict.FAILED}


@pytest.mark.parametrize("fault", SERVING_FAULTS)
def test_a_fault_of_a_server_is_seen_by_its_rule_alone(
    engine: Engine, build: Build, model: Path, mirror: dict[str, str], fault: str
) -> None:
    expected = SERVING_FAULTS[fault].split()
    rules = rules_for({Needs.START, Needs.SERVER}, *expected)
    results = judged(
        engine,
        build(f"FAULT={fault}"),
        rules,
        serve=True,
        model=model,
        environment=mirror,
        startup=10 if fault in WAITED_FOR else 20,
        memory=256,
        # Of one that the user did not give, it cannot be told that the server should read it.
        sample=replace(DEFAULT, given=fault == "has-no-invocations"),
    )
    assert list(failed(results)) == expected, failed(results)


@pytest.mark.parametrize("fault", TRAINING_FAULTS)
def test_a_fault_of_a_job_is_seen_by_its_rule_alone(
    engine: Engine, build: Build, mirror: dict[str, str], fault: str
) -> None:
    expected = TRAINING_FAULTS[fault].split()
    rules = rules_for({Needs.TRAINING}, *expected)
    results = judged(
        engine,
        build(f"FAULT={fault}"),
        rules,
        train=True,
        environment=mirror,
        hyperparameters={"epochs": "1", "name": "bert"},
        stop_hyperparameters={"seconds": "60"},
        max_runtime=20 if fault == "waits-for-files" else 900,
    )
    assert list(failed(results)) == expected, failed(results)


def test_an_engine_that_starts_nothing_is_no_fault_of_the_image(
    engine: Engine, image: Callable[[str], str], tmp_path: Path
) -> None:
    rules = chosen(["serve-offline"], [])
    options = Options(image("serve"), frozenset({"serve-offline"}), serve=True)
    subject = Subject(engine, options, tmp_path, network="no-such-network")
    with pytest.raises(EngineError, match=r"could not be started: .*no-such-network"):
        judge(rules[0], subject)
    subject.close()


def test_our_own_image_keeps_all_rules(engine: Engine, image: Callable[[str], str]) -> None:
    rules = chosen([], ["image-manifest"])  # no registry has it
    options = Options(
        image=image("both"),
        rules=frozenset(one.id for one in rules),
        hyperparameters={"recipe": "forest", "n_estimators": "20"},
        stop_hyperparameters={"recipe": "finetune", "epochs": "1000"},
    )
    others = {one.rule: one.seen for one in conform(engine, options, rules)
              if one.verdict is not Verdict.PASSED}  # fmt: skip
    assert not others


def test_several_processes_keep_all_rules_of_serving(
    engine: Engine, image: Callable[[str], str], logistic_model: Path
) -> None:
    rules = [one for one in chosen([], []) if one.needs in (Needs.START, Needs.SERVER)]
    results = judged(
        engine,
        image("serve"),
        rules,
        serve=True,
        model=logistic_model / "model",
        environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "2"},
    )
    assert {one.verdict for one in results} == {Verdict.PASSED}, failed(results)


def test_an_image_without_fault_passes_all_rules(engine: Engine, build: Build, model: Path) -> None:
    results = judged(
        engine,
        build("FAULT=none"),
        [
            one for one in chosen([], []) if one.id != "image-sdk3-tools"
        ],  # pip, which the base lacks
        stop_hyperparameters={"seconds": "60"},
        hyperparameters={"epochs": "1"},
    )
    told = {one.rule for one in results if one.verdict is Verdict.NOT_APPLICABLE}
    assert (failed(results), told) == (
        {},
        {
            *("image-manifest", "multi-models", "train-script", "train-damaged-checkpoint"),
            *("npy-without-pickle", "serve-survives-kill"),
        },
    )


@pytest.mark.parametrize(
    ("command", "rules"),
    [("train", "train-ends-on-sigterm"), ("serve", "serve-ends-on-sigterm")],
)
def test_a_shell_as_process_1_keeps_sigterm_from_the_program(
    engine: Engine, build: Build, model: Path, command: str, rules: str
) -> None:
    results = judged(
        engine,
        build("SHELL_FIRST=yes"),
        chosen([f"{command}-*"], ["serve-ends-without-model"]),
        stop_hyperparameters={"seconds": "60"},
        model=model,
    )
    assert list(failed(results)) == [rules], failed(results)
    assert "/bin/sh" in failed(results)[rules]


def test_the_label_of_several_models_without_their_routes_is_seen(
    engine: Engine, build: Build, model: Path
) -> None:
    image = build("MULTI_MODELS=true")
    results = judged(engine, image, chosen(["multi-*", "serve-*"], []), serve=True, model=model)
    assert list(failed(results)) == ["multi-models"]


METADATA = {
    "image-entrypoint": 'ENTRYPOINT train "$@"',
    "image-user": "USER 1000",
    "image-opt-ml": "RUN mkdir -p /opt/ml/code && touch /opt/ml/code/train.py",
    "image-driver": "RUN touch /usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "image-compiler": "RUN ln -s /bin/true /usr/bin/gcc",
    "image-command": 'CMD ["bash"]',
    "image-sdk3-tools": "RUN rm /usr/bin/pip3",
}
"""By rule, a line of a Dockerfile that breaks it."""

SOUND = """\
FROM debian:bookworm-slim
RUN for name in train python3 pip3; do ln -s /bin/true /usr/bin/$name; done
CMD ["train"]
"""


@pytest.mark.parametrize("rule", ["", *METADATA])
def test_a_fault_of_an_image_is_seen_without_running_it(
    engine: Engine, docker: Docker, tmp_path: Path, rule: str
) -> None:
    (tmp_path / "Dockerfile").write_text(SOUND + METADATA.get(rule, ""))
    name = f"test-conform-{uuid.uuid4().hex[:8]}"
    docker("build", "--quiet", "--tag", name, str(tmp_path))
    try:
        results = judged(engine, name, chosen(["image-*"], []), train=True)
    finally:
        docker("image", "rm", "--force", name)
    assert list(failed(results)) == ([rule] if rule else [])


@pytest.fixture
def registry(program: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """Yield the address of a registry that asks nobody who they are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "data")}}
    configuration = {"version": "0.1", "storage": storage, "http": {"addr": host}}
    # JSON is YAML, which is what the registry reads.
    (tmp_path / "config.yml").write_text(json.dumps(configuration))
    command = [program("docker-registry"), "serve", str(tmp_path / "config.yml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        wait_for(lambda: ask_registry(host, "") is not None)
        yield host
        server.terminate()


def ask_registry(
    host: str, path: str, kind: str = "*/*", body: bytes | None = None
) -> bytes | None:
    """Return what a GET, or a PUT of the body, is answered with; None without an answer."""
    headers = {"Accept": kind, "Content-Type": kind}
    url, method = f"http://{host}/v2/{path}", "PUT" if body else "GET"
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: bytes = response.read()
            return answer
    except OSError:
        return None


def test_an_oci_index_is_seen_in_the_registry(
    engine: Engine, docker: Docker, registry: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    name, docker_type = (
        f"{registry}/conform:1",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
    docker("build", "--quiet", "--tag", name, "--file", str(tmp_path / "Dockerfile"), str(tmp_path))
    docker("push", name)
    docker("image", "rm", "--force", name)
    manifest = ask_registry(registry, "conform/manifests/1", docker_type)
    assert manifest
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    entry = {"mediaType": docker_type, "digest": digest, "size": len(manifest)}
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
    assert (
        ask_registry(registry, "conform/manifests/2", kind, json.dumps(index).encode()) is not None
    )

    rules = chosen(["image-manifest"], [])
    (good,) = judged(engine, name, rules, train=True)
    (bad,) = judged(engine, name.replace(":1", ":2"), rules, train=True)
    assert (good.verdict, bad.verdict) == (Verdict.PASSED, Verdict.FAILED)
    assert kind in bad.seen


def documented(heading: str) -> list[str]:
    """Return the rules of the table under a heading of the documentation."""
    section = DOCS.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n### ")[0]
    return re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)


@contextmanager
def built(docker: Docker, base: str, directory: Path) -> Iterator[str]:
    """Yield the name of an image of another shape, which is made on top of ours."""
    name = f"test-conform-{uuid.uuid4().hex[:8]}"
    certificates = os.environ.get("CA_BUNDLE")
    secret = ("--secret", f"id=ca,src={certificates}") if certificates else ()
    arguments = ("--build-arg", f"BASE={base}", *secret)
    docker("build", "--quiet", "--tag", name, *arguments, str(directory))
    try:
        yield name
    finally:
        docker("image", "rm", "--force", name)


def test_the_common_shape_of_container_breaks_the_rules_that_the_docs_name(
    engine: Engine, docker: Docker, image: Callable[[str], str], tmp_path: Path
) -> None:
    rows = [f"class{i % 3},{i % 3}.{i},{i % 3}.5" for i in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    rules = documented("nginx, gunicorn and Flask")
    with built(docker, image("serve"), NGINX) as name:
        results = judged(
            engine,
            name,
            chosen([*rules, "train-completes", "serve-answers"], []),
            data={"training": tmp_path},
            sample=Sample(b"0.5,0.5\n2.5,2.5\n", "text/csv"),
        )
    assert set(failed(results)) == set(rules)


def test_multi_model_server_breaks_the_rules_that_the_docs_name(
    engine: Engine, docker: Docker, image: Callable[[str], str], model: Path
) -> None:
    rules = documented("multi-model-server")
    with built(docker, image("serve"), MULTI_MODEL_SERVER) as name:
        judging = chosen([*rules, "serve-answers"], [])
        results = judged(engine, name, judging, serve=True, model=model, startup=60)
    assert set(failed(results)) == set(rules)
