from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve.logs import log_to_stdout

log = logging.getLogger("tests.logs")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that returns the lines which standard output has."""
    output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    monkeypatch.setattr("sys.stdout", output)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    log_to_stdout()
    yield lambda: [json.loads(line) for line in output.buffer.getvalue().splitlines()]
    root.handlers[:], root.level = before


def test_a_line_is_a_json_object(lines: Any) -> None:
    log.warning("%d texts failed\n💔", 7)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "WARNING", "message": "7 texts failed\n💔"}


def test_what_is_passed_as_extra_becomes_keys(lines: Any) -> None:
    log.info("asked", extra={"request_id": "abc", "status": 200, "where": ValueError("odd")})
    (line,) = lines()
    assert (line["request_id"], line["status"], line["where"]) == ("abc", 200, "odd")


def test_a_traceback_is_one_key_of_the_line(lines: Any) -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        log.exception("failed")
    (line,) = lines()
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("RuntimeError: two\nlines")


def test_half_a_surrogate_pair_is_written_all_the_same(lines: Any) -> None:
    (handler,) = (one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler)
    handler.handle(logging.makeLogRecord({"msg": "fire \ud83d"}))  # pytest cannot pass it on
    assert lines()[0]["message"] == "fire \ud83d"


def test_debugging_lines_are_left_out(lines: Any) -> None:
    log.debug("detail")
    assert lines() == []
