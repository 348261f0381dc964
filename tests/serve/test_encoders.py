from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from serve.decoders import LINE_TYPES
from serve.encoders import ENCODERS, encoder_for
from serve.errors import BadRequest, NotAcceptable


@dataclass
class Row:
    """An answer that is a label and a score."""

    value: list[Any] = field(default_factory=lambda: ["a, b", 0.5])
    numbers: Sequence[float] = (0.5, 0.25)

    def json(self) -> Any:
        return {"label": self.value[0], "score": self.value[1]}

    def cells(self) -> list[Any]:
        return self.value

    def array(self) -> NDArray[np.float32]:
        return np.array([self.numbers], np.float32)


def chosen(header: str, default: str = "application/json") -> str:
    return encoder_for(parse_accept_header(header, MIMEAccept), default)[0]


def written(media_type: str, *answers: Row, header: Sequence[str] = ()) -> bytes:
    return b"".join(ENCODERS[media_type](answers, list(header)))


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        ("", "text/csv"),
        ("*/*", "text/csv"),
        ("*", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/*", "application/json"),
        ("text/html, application/json;q=0.1", "application/json"),
        ("application/json;q=0.1, application/x-npy;q=0.2", "application/x-npy"),
        ("application/json, */*;q=0.1", "application/json"),
        ("text/csv;q=0.1, */*", "application/json"),
        ("text/csv;q=0, */*;q=0.1", "application/json"),
        ("text/*;q=0.5, text/csv;q=0.1, application/jsonlines;q=0.3", "application/jsonlines"),
        ("application/json;q=0.5, application/json;q=0.5, text/csv;q=0.5", "text/csv"),
        *((name, name) for name in LINE_TYPES),
    ],
)
def test_the_client_gets_what_it_likes_best(header: str, media_type: str) -> None:
    assert chosen(header, default="text/csv") == media_type


@pytest.mark.parametrize(
    "header", ["text/html", "text/plain, image/*", "application/json;q=0", "*/*;q=0", "json"]
)
def test_what_cannot_be_written_is_refused_naming_what_can(header: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/json.*text/csv.*application/x-npy"):
        chosen(header)


def test_json_is_an_array_of_an_answer_a_record() -> None:
    assert json.loads(written("application/json", Row(), Row(["Überflutung", 1.0]))) == [
        {"label": "a, b", "score": 0.5},
        {"label": "Überflutung", "score": 1.0},
    ]
    assert written("application/json") == b"[]"


@pytest.mark.parametrize("media_type", LINE_TYPES)
def test_lines_are_an_answer_each_without_one_that_is_empty(media_type: str) -> None:
    body = written(media_type, Row(), Row(["two\nlines", 1.0]))
    assert [json.loads(line)["label"] for line in body.split(b"\n")] == ["a, b", "two\nlines"]
    assert written(media_type) == b""


def test_csv_is_a_row_an_answer_below_a_header_where_there_was_one() -> None:
    plain = written("text/csv", Row(), Row(["two\nlines", 1.0]))
    assert list(csv.reader(io.StringIO(plain.decode(), newline=""))) == [
        ["a, b", "0.5"],
        ["two\nlines", "1.0"],
    ]
    assert written("text/csv", Row(), header=["label", "score"]) == b'label,score\n"a, b",0.5\n'


def test_npy_is_an_array_of_a_row_a_text() -> None:
    array = np.load(io.BytesIO(written("application/x-npy", Row(), Row())), allow_pickle=False)
    assert (array.dtype, array.tolist()) == (np.float32, [[0.5, 0.25]] * 2)
    assert np.load(io.BytesIO(written("application/x-npy"))).shape == (0, 0)


def test_npy_of_unlike_rows_is_refused() -> None:
    with pytest.raises(BadRequest, match="one length"):
        written("application/x-npy", Row(), Row(numbers=[1]))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("media_type", ["application/json", "application/jsonlines"])
def test_a_number_that_json_lacks_is_never_written(media_type: str, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        written(media_type, Row(["a", number]))


@pytest.mark.parametrize("media_type", ["application/json", "application/jsonlines"])
def test_half_a_surrogate_pair_in_a_label_is_no_fault(media_type: str) -> None:
    assert b"fire ?" in written(media_type, Row(["fire \ud83d", 1.0]))
