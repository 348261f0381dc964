"""Batch transform: how files are cut, sent, retried and assembled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from local_test.hosting import HostingError
from local_test.mini_batches import RecordError, cut
from local_test.transform import Job, Parameters, TransformError, parameters, transform
from tests.local_test.conftest import QUICK, Serve

ROOT = Path(__file__).parents[2]
LINES = Job(by_lines=True, content_type="text/csv", accept="text/plain", retries=0)
SINGLE = Parameters(strategy="SINGLE_RECORD")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(content: bytes | str, name: str = "in.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def bodies(path: Path, by_lines: bool, multi_record: bool, limit: int) -> list[bytes]:
    found = [batch.body() for batch in cut(path, by_lines, multi_record, limit)]
    return [body if isinstance(body, bytes) else b"".join(body) for body in found]


# Cutting


def test_multi_record_holds_as_many_lines_as_fit(write: Write) -> None:
    path = write("aa\nbb\ncc\nd")
    assert bodies(path, True, True, 6) == [b"aa\nbb\n", b"cc\nd"]
    assert bodies(path, True, True, 5) == [b"aa\n", b"bb\n", b"cc\nd"]


def test_single_record_is_a_line(write: Write) -> None:
    assert bodies(write("aa\r\n\nbb"), True, False, 100) == [b"aa\r\n", b"\n", b"bb"]


def test_strategy_does_not_matter_where_nothing_is_split(write: Write) -> None:
    path = write("aa\nbb\n")
    assert bodies(path, False, True, 6) == bodies(path, False, False, 6) == [b"aa\nbb\n"]


def test_pieces_are_the_file_and_say_their_lines(write: Write) -> None:
    path = write("".join(f"{number}\n" for number in range(100)))
    batches = list(cut(path, True, True, 20))
    assert b"".join(bodies(path, True, True, 20)) == path.read_bytes()
    assert [batch.place for batch in batches[:2]] == ["lines 1 to 10", "lines 11 to 16"]
    assert sum(batch.records for batch in batches) == 100


def test_record_that_is_larger_than_the_payload_is_named(write: Write) -> None:
    path = write(b"a\n" + b"b" * 10)
    with pytest.raises(RecordError, match="line 2 has 10 bytes"):
        bodies(path, True, True, 9)
    with pytest.raises(RecordError, match="it has 12 bytes"):
        bodies(path, False, True, 11)


def test_empty_file_split_by_lines_has_no_mini_batch(write: Write) -> None:
    assert bodies(write(""), True, True, 9) == []


# /execution-parameters


def test_job_comes_before_the_program_and_the_program_before_the_defaults(serve: Serve) -> None:
    liked = {"MaxConcurrentTransforms": 8, "BatchStrategy": "SINGLE_RECORD", "Other": 1}
    endpoint = serve(PARAMETERS=json.dumps(liked))
    assert parameters(endpoint, {"concurrent": 2}) == Parameters(2, "SINGLE_RECORD", 6)


def test_defaults_hold_where_the_program_has_no_parameters(serve: Serve) -> None:
    assert parameters(serve(), {}) == Parameters(1, "MULTI_RECORD", 6)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"BatchStrategy": "MultiRecord"}', "'MultiRecord'; allowed: MULTI_RECORD, SINGLE_RECORD"),
        ('{"MaxPayloadInMB": 101}', "MaxPayloadInMB is 101; allowed: 0 to 100"),
        ('{"MaxPayloadInMB": "6"}', "MaxPayloadInMB is '6'; allowed"),
        ('{"MaxConcurrentTransforms": 0}', "MaxConcurrentTransforms is 0; allowed"),
        ('{"MaxConcurrentTransforms": 17}', "x MaxPayloadInMB is 102; allowed: at most 100"),
    ],
)
def test_parameters_that_the_service_does_not_allow_are_named(
    serve: Serve, said: str, message: str
) -> None:
    with pytest.raises(HostingError, match=re.escape(message)):
        parameters(serve(PARAMETERS=said), {})


# Sending


def test_types_reach_the_program_and_the_answers_are_joined(serve: Serve, write: Write) -> None:
    source = write("a\nb\n")
    target = source.with_suffix(".out")
    assert transform(serve(), LINES, SINGLE, source, target) == (2, 0)
    first, end = json.JSONDecoder().raw_decode(target.read_text())
    assert json.loads(target.read_text()[end:])["body"] == "b\n"
    assert first["body"] == "a\n"
    assert first["headers"]["Content-Type"] == "text/csv"
    assert first["headers"]["Accept"] == "text/plain"


def test_assembly_by_lines_adds_a_line_break_to_each_answer(serve: Serve, write: Write) -> None:
    source = write('{"body": "one"}\n{"body": "two\\n"}\n')
    job = replace(LINES, assemble_lines=True)
    target = source.with_suffix(".out")
    transform(serve(), job, SINGLE, source, target)
    assert target.read_bytes() == b"one\ntwo\n\n"


def test_order_is_kept_where_answers_overtake_each_other(serve: Serve, write: Write) -> None:
    rows = [{"body": f"{n};", "sleep": 0.3 * (n % 2 == 0)} for n in range(8)]
    source = write("\n".join(map(json.dumps, rows)))
    target = source.with_suffix(".out")
    transform(serve(), LINES, replace(SINGLE, concurrent=4), source, target)
    assert target.read_text() == "0;1;2;3;4;5;6;7;"


def test_payload_of_0_streams_the_file(serve: Serve, write: Write) -> None:
    source = write("a\nb\n")
    target = source.with_suffix(".out")
    transform(serve(), LINES, Parameters(payload=0), source, target)
    seen = json.loads(target.read_text())
    assert seen["body"] == "a\nb\n"
    assert seen["headers"]["Transfer-Encoding"] == "chunked"


def test_mini_batch_that_fails_leaves_no_output_and_names_its_lines(
    serve: Serve, write: Write
) -> None:
    rows = ["fine\n"] * 5 + ['{"status": 400, "body": "no such column"}']
    source = write("".join(rows))
    target = source.with_suffix(".out")
    with pytest.raises(TransformError, match="line 6: status 400: no such column"):
        transform(serve(), LINES, SINGLE, source, target)
    assert list(source.parent.iterdir()) == [source]


def test_mini_batch_is_tried_again(
    serve: Serve, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write('{"tries": 2, "body": "at last"}')
    target = source.with_suffix(".out")
    transform(serve(), replace(LINES, retries=3), SINGLE, source, target)
    assert target.read_text() == "at last"
    assert "attempt 2 of 4: status 503" in capsys.readouterr().err


def test_retries_end(serve: Serve, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    source = write('{"status": 500, "body": ""}')
    with pytest.raises(TransformError):
        transform(serve(), replace(LINES, retries=3), SINGLE, source, source.with_suffix(".out"))
    assert capsys.readouterr().err.count("status 500") == 4


def test_late_answer_is_a_failure(serve: Serve, write: Write) -> None:
    source = write('{"sleep": 20}')
    endpoint = serve(replace(QUICK, invocation=1))
    with pytest.raises(TransformError, match="line 1: no answer within 1 s"):
        transform(endpoint, LINES, SINGLE, source, source.with_suffix(".out"))


# python -m local_test batch


INFERENCE = """
import os
import time

def model_fn(model_dir):
    names = "SAGEMAKER_BATCH", "SAGEMAKER_MAX_PAYLOAD_IN_MB", "SAGEMAKER_BATCH_STRATEGY"
    print({name: os.environ.get(name) for name in names}, flush=True)
    return str.upper

def transform_fn(model, body, content_type, accept):
    if "bad" in body:
        raise ValueError("a bad row")
    if "slow" in body:
        print("a slow row", flush=True)
        time.sleep(3)
    return model(body)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that transforms files with a model that answers in capitals."""
    (tmp_path / "model/code").mkdir(parents=True)
    (tmp_path / "model/code/inference.py").write_text(INFERENCE)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        common = ["--model", tmp_path / "model", "--output", tmp_path / "out"]
        return subprocess.run(
            [sys.executable, "-m", "local_test", "batch", *map(str, [*common, *arguments])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


def test_job_transforms_all_files_of_a_directory(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/one.csv").write_text("a\nb\n")
    (tmp_path / "in/deep/two.csv").write_text("c\n")
    done = run("--input", tmp_path / "in", "--split", "line", "--content-type", "text/csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/one.csv.out").read_text() == "A\nB\n"
    assert (tmp_path / "out/deep/two.csv.out").read_text() == "C\n"
    assert "one.csv.out: 2 records in, 2 lines out" in done.stderr
    assert "job Completed" in done.stderr


def test_other_variables_are_set_only_where_the_job_sets_them(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("a\n")
    options = ("--input", tmp_path / "in.csv", "--content-type", "text/csv")
    assert (
        str(
            {
                "SAGEMAKER_BATCH": "true",
                "SAGEMAKER_MAX_PAYLOAD_IN_MB": None,
                "SAGEMAKER_BATCH_STRATEGY": None,
            }
        )
        in run(*options).stdout
    )
    assert (
        str(
            {
                "SAGEMAKER_BATCH": "true",
                "SAGEMAKER_MAX_PAYLOAD_IN_MB": "7",
                "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
            }
        )
        in run(*options, "--max-payload", 7, "--strategy", "SingleRecord").stdout
    )


def test_failed_file_fails_the_job_and_leaves_the_others(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for name, content in {"1.csv": "bad\n", "2.csv": "good\n"}.items():
        (tmp_path / name).write_text(content)
    inputs = ("--input", tmp_path / "1.csv", "--input", tmp_path / "2.csv")
    done = run(*inputs, "--split", "line", "--content-type", "text/csv", "--max-retries", 1)
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2.csv.out"]
    assert "1.csv, line 1: status 500" in done.stderr
    assert "job Failed: 1 of 2 files have no output" in done.stderr


@pytest.mark.usefixtures("run")
def test_stopped_job_says_so_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("slow\n" * 20)
    options = ("--model", "model", "--input", "in.csv", "--output", "out", "--split", "line",
               "--content-type", "text/csv", "--strategy", "SingleRecord")  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "local_test", "batch", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        next(line for line in process.stdout if "a slow row" in line)
        process.terminate()
        told = process.stdout.read()
    assert process.returncode == 1
    assert "job Stopped" in told
    assert "job Failed" not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "/none"], "--input /none: there is no such file"),
        (["--input", "/etc/hostname", "--max-payload", 101], "allowed: 0 to 100"),
        (["--input", "/etc/hostname", "--max-concurrent", 20], "is 120; allowed: at most 100"),
        (["--input", "/etc/hostname", "--invocation-timeout", 0], "from 1 to 3600"),
    ],
)
def test_wrong_argument_is_named(
    run: Callable[..., subprocess.CompletedProcess[str]], options: list[object], message: str
) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert message in done.stderr
