"""The scripts of local_test/, with a stand-in for the programs `train` and `serve`."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LOCAL_TEST = Path(__file__).parents[2] / "local_test"

Run = Callable[..., subprocess.CompletedProcess[str]]

SERVE = """
import http.server, os, signal, sys

if os.environ.get("BROKEN"):
    sys.exit("the weights are corrupt")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
pings = iter([503, 503])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(next(pings, 200))
        self.end_headers()

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.rfile.read(int(self.headers["Content-Length"])))

address = os.environ["OPTML_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
http.server.HTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `$PYTHON -m serve` is the stand-in.

    `$PYTHON -P …` prints its arguments.
    """
    (tmp_path / "serve.py").write_text(SERVE)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'case "$1 $2" in\n'
        f'"-m serve") set -- "{tmp_path}/serve.py" ;;\n'
        "-P*) set -- -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\" ;;\n"
        "esac\n"
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "PYTHON": str(python),
        "OPT_ML": str(tmp_path / "opt_ml"),
    }


@pytest.fixture
def tree(environment: dict[str, str]) -> Path:
    return Path(environment["OPT_ML"])


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def call(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LOCAL_TEST / script, *arguments],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


@pytest.fixture
def model(tree: Path) -> Path:
    path = tree / "model"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


# Arguments


@pytest.mark.parametrize("script", ["train_local.sh", "serve_local.sh", "predict.sh"])
def test_help_has_usage_and_examples(run: Run, script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"Usage: {script}" in done.stdout
    assert f"\n  {script} " in done.stdout
    assert "shellcheck" not in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train_local.sh", ["--epochs"], 'unknown option "--epochs"; allowed: --content-type'),
        ("train_local.sh", ["--env"], "--env needs a value"),
        ("train_local.sh", ["image", "other"], '"other" after the image "image"'),
        ("train_local.sh", ["/etc/hostname"], "to train on it type train=/etc/hostname"),
        ("serve_local.sh", ["--ports", "1"], 'unknown option "--ports"; allowed: --port'),
        ("serve_local.sh", ["--port", "http"], '--port "http" is no port; allowed: 1 to 65535'),
        ("serve_local.sh", ["--port", "65536"], "allowed: 1 to 65535"),
        ("serve_local.sh", ["image", "other"], 'two images: "image" and "other"'),
        ("predict.sh", [], "no payload; give a file or a JSON text"),
        ("predict.sh", ["no-such.json"], '"no-such.json" is neither a file nor a text'),
        ("predict.sh", ["{}", "text/csv", "9000"], '"9000" after the content type "text/csv"'),
    ],
)
def test_wrong_argument_is_named(run: Run, script: str, arguments: list[str], message: str) -> None:
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.usefixtures("model")
def test_image_without_docker_says_how_to_do_without(run: Run, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "basename", "ls"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name}"))
    done = run("serve_local.sh", "image", PATH=str(programs))
    assert done.returncode == 1
    assert "the program docker is missing" in done.stderr
    assert 'leave the image "image" out' in done.stderr

    (programs / "docker").symlink_to(shutil.which("false") or pytest.fail("no false"))
    assert "no Docker engine answers" in run("serve_local.sh", "image", PATH=str(programs)).stderr


# train_local.sh


def test_training_is_the_short_form_of_the_command(run: Run, tree: Path) -> None:
    def command(*arguments: str) -> list[str]:
        done = run("train_local.sh", *arguments)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    start, output = ["-P", "-m", "local_test", "train"], ["--output", str(tree)]
    sample = ["--data", f"train={LOCAL_TEST}/data/messages.csv"]
    assert command() == [*start, *output, *sample]
    given = ("image", "--quoting", "sdk-v2", "a=b c", "--keep-checkpoints", "--", "n=a b")
    assert command(*given) == [
        *start, "image", *output, "--data", "a=b c", "--quoting", "sdk-v2",
        "--checkpoints", f"{tree}/checkpoints", "--hyperparameter", "n=a b",
    ]  # fmt: skip


# serve_local.sh


def test_there_has_to_be_a_model(run: Run, tree: Path) -> None:
    assert f"there is no model in {tree}/model" in run("serve_local.sh").stderr
    (tree / "model").mkdir(parents=True)
    done = run("serve_local.sh")
    assert done.returncode == 1
    assert "train_local.sh" in done.stderr


@pytest.mark.usefixtures("model")
def test_used_port_is_named(run: Run, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = run("serve_local.sh", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr


@pytest.mark.usefixtures("model")
def test_detached_server_answers_until_it_is_stopped(run: Run, port: int) -> None:
    option = ("--port", str(port))
    started = run("serve_local.sh", *option, "--detach")
    try:
        assert started.returncode == 0, started.stderr
        assert f"--stop --port {port}" in started.stderr
        assert run("predict.sh", '{"inputs": "é"}', *option).stdout == '{"inputs": "é"}'
    finally:
        stopped = run("serve_local.sh", *option, "--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "nothing listens" in run("predict.sh", "{}", *option).stderr
    assert "nothing to stop" in run("serve_local.sh", *option, "--stop").stderr


@pytest.mark.usefixtures("model")
def test_detached_server_that_ends_shows_its_log(run: Run, port: int) -> None:
    done = run("serve_local.sh", "--port", str(port), "--detach", "--env", "BROKEN=1")
    assert done.returncode == 1
    assert "the weights are corrupt" in done.stderr
    assert "the server ended before /ping answered 200" in done.stderr


@pytest.mark.usefixtures("model")
def test_number_in_a_stale_pid_file_is_not_killed(run: Run, tree: Path, port: int) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (tree / f"optml-serve-{port}.pid").write_text(f"{bystander.pid}\n")
        assert run("serve_local.sh", "--port", str(port), "--stop").returncode == 1
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.usefixtures("model")
def test_foreground_server_is_stopped_by_sigterm(
    environment: dict[str, str], run: Run, port: int
) -> None:
    command = [str(LOCAL_TEST / "serve_local.sh"), "--port", str(port)]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 30
        while run("predict.sh", "{}", "--port", str(port)).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=30) == 5


# predict.sh


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Answer with what was asked; for text/fail with status 415."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        content_type = self.headers["Content-Type"]
        self.send_response(415 if content_type == "text/fail" else 200)
        self.end_headers()
        self.wfile.write(json.dumps([self.path, content_type, body]).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Yield the port of a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("payload", ['{"inputs": "é"}', '["a", "b"]', '"text"'])
def test_text_is_posted_as_json(run: Run, endpoint: str, payload: str) -> None:
    done = run("predict.sh", payload, "--port", endpoint)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["/invocations", "application/json", payload]


def test_file_is_posted_unchanged_with_its_content_type(
    run: Run, endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "two lines.csv").write_text("a,b\r\n\n1,2\n", newline="")
    done = run("predict.sh", str(tmp_path / "two lines.csv"), "text/csv", "--port", endpoint)
    assert json.loads(done.stdout) == ["/invocations", "text/csv", "a,b\r\n\n1,2\n"]


def test_proxy_is_not_asked(run: Run, endpoint: str) -> None:
    proxy = "http://127.0.0.1:9"
    assert run("predict.sh", "{}", "--port", endpoint, http_proxy=proxy).returncode == 0


def test_error_answer_goes_to_standard_error(run: Run, endpoint: str) -> None:
    done = run("predict.sh", "{}", "text/fail", "--port", endpoint)
    assert (done.returncode, done.stdout) == (1, "")
    assert '["/invocations", "text/fail", "{}"]' in done.stderr
    assert "status 415" in done.stderr


def test_sample_payload_is_valid() -> None:
    assert len(json.loads((LOCAL_TEST / "payload.json").read_text())["inputs"]) == 2
