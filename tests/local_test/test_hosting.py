"""A program as an endpoint: start, health, limits, stop; and `python -m local_test serve`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from local_test import hosting, serving
from local_test.arguments import ArgumentError
from local_test.exchange import TimedOut, Unanswered, ask
from local_test.hosting import MODES, HostingError
from local_test.model_data import model_directory
from tests.local_test.conftest import MB, QUICK, Serve
from tests.local_test.test_runtime_api import client_of

ROOT = Path(__file__).parents[2]

# Modes


def test_limits_are_those_of_the_service() -> None:
    limits = {name: (mode.payload // MB, mode.invocation) for name, mode in MODES.items()}
    assert limits == {
        "realtime": (25, 60),
        "serverless": (4, 60),
        "async": (1024, 900),
        "batch": (100, 600),
    }


# Start


def test_endpoint_is_healthy_when_ping_is_200(serve: Serve) -> None:
    endpoint = serve(PINGS="503 404 200", healthy=False)
    endpoint.wait_until_healthy()
    assert endpoint.ping() == ""


def test_program_that_ends_at_start_up_is_told_with_its_status(serve: Serve) -> None:
    endpoint = serve(BROKEN="1", healthy=False)
    with pytest.raises(HostingError, match="ended with exit status 1 before /ping answered 200"):
        endpoint.wait_until_healthy()
    assert endpoint.program.lines == ["the weights are corrupt"]


def test_program_that_is_not_healthy_in_time_is_told(serve: Serve) -> None:
    endpoint = serve(replace(QUICK, startup=10), PINGS="503 " * 1000, healthy=False)
    with pytest.raises(HostingError, match="did not answer 200 within 10 s: status 503"):
        endpoint.wait_until_healthy()


def test_ping_has_two_seconds(serve: Serve) -> None:
    endpoint = serve(replace(QUICK, startup=8), PING_SECONDS="20", healthy=False)
    with pytest.raises(HostingError, match=r"within 8 s: no answer within 2 s"):
        endpoint.wait_until_healthy()


# Exchange


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """Yield the address of a server that sends each client one of some bytes, and hangs up."""

    def answer(listener: socket.socket) -> None:
        for content in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(content)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "broke off, 3 bytes are missing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "the body broke off"),
        (b"", "the connection broke off: RemoteDisconnected"),
        (b"SSH-2.0\r\n", "the connection broke off: BadStatusLine"),
    ],
)
def test_answer_that_breaks_off_is_none(content: bytes, message: str) -> None:
    with raw_server(content) as address, pytest.raises(Unanswered, match=message):
        ask(address, "POST", "/invocations", 30)


def test_answer_may_end_with_the_connection() -> None:
    with raw_server(b"HTTP/1.0 200 OK\r\n\r\nabc") as address:
        assert ask(address, "GET", "/ping", 30).body == b"abc"


def test_connection_has_to_be_accepted_within_250_ms() -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):  # more than may wait
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        time.sleep(0.1)
        with pytest.raises(Unanswered, match="not accepted within 250 ms"):
            ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "GET", "/ping", 30)


def test_late_answer_is_none(serve: Serve) -> None:
    with pytest.raises(TimedOut, match="no answer within 1 s"):
        serve().invoke(b'{"sleep": 20}', timeout=1)


def test_parts_of_a_body_are_sent_in_chunks(serve: Serve) -> None:
    answer = serve().invoke(iter([b"one ", b"two"]))
    seen = json.loads(answer.body)
    assert seen["body"] == "one two"
    assert seen["headers"]["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in seen["headers"]


# Stop


def test_request_in_hand_at_sigterm_is_answered(serve: Serve) -> None:
    endpoint = serve()
    answers = []
    body = b'{"sleep": 3, "body": "late but whole"}'
    thread = threading.Thread(target=lambda: answers.append(endpoint.invoke(body).body))
    thread.start()
    while "asked for nothing" not in endpoint.program.lines:
        time.sleep(0.05)
    endpoint.stop()
    thread.join()
    assert answers == [b"late but whole"]
    assert (endpoint.program.wait(), endpoint.program.lines[-1]) == (0, "drained")


def test_program_that_ignores_sigterm_is_killed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "GRACE", 1)
    endpoint = serve(STUBBORN="1")
    assert endpoint.stop() >= 1
    assert endpoint.program.wait() == 128 + signal.SIGKILL


# Model data


Pack = Callable[..., Path]


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Return a function that packs files, given by name and content, and other members."""

    def make(files: dict[str, str], *members: tarfile.TarInfo) -> Path:
        path = tmp_path / "model.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
            for member in members:
                archive.addfile(member)
        return path

    return make


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_archive_is_unpacked_for_as_long_as_it_is_needed(pack: Pack) -> None:
    with model_directory(pack({"config": "{}", "code/inference": "pass"})) as directory:
        assert (directory / "config").read_text() == "{}"
        assert (directory / "code/inference").read_text() == "pass"
        assert directory.stat().st_mode & 0o777 == 0o755
    assert not directory.exists()


def test_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    with model_directory(tmp_path) as directory:
        assert directory == tmp_path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (member("../evil"), r'has "../evil", which leads out of /opt/ml/model'),
        (member("/etc/evil"), 'has "/etc/evil", which leads out'),
        (member("a", tarfile.SYMTYPE, "blobs/1"), 'the link "a" to "blobs/1".*tar --dereference'),
        (member("a", tarfile.LNKTYPE, "config"), 'the link "a" to "config"'),
        (member("a", tarfile.FIFOTYPE), 'has "a", which is neither a file nor a directory'),
    ],
)
def test_archive_that_the_service_would_not_take_is_refused(
    pack: Pack, fault: tarfile.TarInfo, message: str
) -> None:
    with (
        pytest.raises(ArgumentError, match=message),
        model_directory(pack({"config": "{}"}, fault)),
    ):
        pass


def test_archive_that_is_not_gzipped_or_not_whole_is_refused(pack: Pack, tmp_path: Path) -> None:
    path = pack({"config": "{}" * 10_000})
    path.write_bytes(path.read_bytes()[:-20])
    plain = tmp_path / "model.tar"
    tarfile.open(plain, "w").close()
    for archive in (path, plain):
        with pytest.raises(ArgumentError, match="gzipped tar"), model_directory(archive):
            pass


def test_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ArgumentError, match=r"no model at .*/none"),
        model_directory(tmp_path / "none"),
    ):
        pass


def test_leading_directory_in_the_archive_is_told(
    pack: Pack, capsys: pytest.CaptureFixture[str]
) -> None:
    with model_directory(pack({"model/config": "{}", "model/weights": "1"})):
        assert "in /opt/ml/model/model" in capsys.readouterr().err
    with model_directory(pack({"code/inference": "pass"})):
        assert not capsys.readouterr().err


# python -m local_test serve


INFERENCE = """
import os

def model_fn(model_dir):
    print("model in", sorted(os.listdir(model_dir)), os.environ.get("GREETING"), flush=True)
    return str.upper

def predict_fn(data, model):
    return model(data["inputs"])
"""


class Command:
    """The command in another process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local_test", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"{pattern} was not said: {''.join(self.said)}")

    def stop(self) -> int:
        self.process.terminate()
        assert self.process.stdout
        with self.process.stdout as output:
            self.said += output
        return self.process.wait(60)


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def start(*arguments: object) -> Command:
        commands.append(Command(*map(str, arguments)))
        return commands[-1]

    yield start
    for one in commands:
        if one.process.poll() is None:
            one.stop()
        assert one.process.stdout
        one.process.stdout.close()


@pytest.mark.parametrize("mode", ["realtime", "serverless", "batch"])
def test_archive_is_served_until_sigterm(
    pack: Pack, command: Callable[..., Command], mode: str
) -> None:
    archive = pack({"code/inference.py": INFERENCE})
    served = command(
        *("serve", "--model", archive, "--port", 0, "--endpoint-name", "mine", "--mode", mode),
        *("--env", "GREETING=good day"),
    )
    address = served.wait_for('endpoint_url="(.*?)"')[1]
    answer = client_of(address).invoke_endpoint(
        EndpointName="mine", ContentType="application/json", Body='{"inputs": "flood"}'
    )
    assert json.loads(answer["Body"].read()) == "FLOOD"
    assert served.stop() == 0
    said = "".join(served.said)
    assert "no image is named: the bare program" in said
    assert "model in ['code'] good day" in said
    assert "InvokeEndpoint: status 200" in said
    assert re.search(r"the program ended after [0-9.]+ s with exit status 0", said)


def test_request_in_hand_at_sigterm_reaches_its_client(
    pack: Pack, command: Callable[..., Command]
) -> None:
    slow = INFERENCE.replace("return model(", "__import__('time').sleep(4); return model(")
    served = command("serve", "--model", pack({"code/inference.py": slow}), "--port", 0)
    client = client_of(served.wait_for('endpoint_url="(.*?)"')[1])
    answers = []

    def ask() -> None:
        answer = client.invoke_endpoint(
            EndpointName="any", ContentType="application/json", Body='{"inputs": "late"}'
        )
        answers.append(answer["Body"].read())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(2)
    assert served.stop() == 0
    thread.join()
    assert answers == [b'"LATE"']


def test_asynchronous_endpoint_writes_into_the_directory_that_is_s3(
    pack: Pack, command: Callable[..., Command], tmp_path: Path
) -> None:
    (tmp_path / "s3/bucket").mkdir(parents=True)
    (tmp_path / "s3/bucket/in.json").write_text('{"inputs": "flood"}')
    served = command(
        *("serve", "--model", pack({"code/inference.py": INFERENCE}), "--port", 0),
        *("--mode", "async", "--s3", tmp_path / "s3", "--s3-output", "s3://bucket/out"),
    )
    client = client_of(served.wait_for('endpoint_url="(.*?)"')[1])
    answer = client.invoke_endpoint_async(
        EndpointName="any", ContentType="application/json", InputLocation="s3://bucket/in.json"
    )
    served.wait_for("InvokeEndpointAsync: answered")
    key = answer["OutputLocation"].removeprefix("s3://")
    assert (tmp_path / "s3" / key).read_text() == '"FLOOD"'
    assert served.stop() == 0


def test_ping_that_fails_later_is_told_once_it_is_well_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "PING_INTERVAL", 0.2)
    endpoint = serve(PINGS="200 503 503 200", healthy=True)
    threading.Timer(4, endpoint.stop).start()
    assert serving.watch(endpoint) == 0
    told = capsys.readouterr().err
    assert told.count("/ping failed: status 503; SageMaker replaces an instance") == 2
    assert told.count("/ping answers 200 again") == 1


def test_model_that_cannot_be_loaded_ends_the_command(
    tmp_path: Path, command: Callable[..., Command]
) -> None:
    served = command("serve", "--model", tmp_path, "--port", 0)
    served.wait_for("ended with exit status [0-9]+ before /ping answered 200")
    assert served.process.wait(60) == 1


def test_sigterm_before_the_endpoint_stands_stops_the_program(
    pack: Pack, command: Callable[..., Command]
) -> None:
    slow = "import time\n" + INFERENCE.replace("return str.upper", "time.sleep(60)")
    served = command("serve", "--model", pack({"code/inference.py": slow}), "--port", 0)
    served.wait_for("model in")
    served.stop()
    assert "SIGTERM; the program has 30 s" in "".join(served.said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "async"], "--mode async needs --s3"),
        (["--model", "/none"], "there is no model at /none"),
        (["--startup-timeout", "3601"], "--startup-timeout 3601 is not above 0 and at most 3600"),
        (["--env", "A"], '--env "A" is not of the form KEY=VALUE'),
        (["--port", "{taken}"], "is in use; type --port with another one"),
    ],
)
def test_wrong_argument_is_named(
    command: Callable[..., Command], arguments: list[str], message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        served = command("serve", "--port=0", *[text.format(taken=port) for text in arguments])
        served.wait_for(re.escape(message))
        assert served.process.wait(60) == 2
