from __future__ import annotations

import json
from typing import Any

import pytest

from serve.errors import BadRequest
from serve.records import TEXT_KEYS, Record, read_record

ONE = Record(["a text"])
LIST = Record(["a text"], many=True)
PAIR = {"text": "a text", "text_pair": "its other half"}
HALVES = ("a text", "its other half")


@pytest.mark.parametrize(
    ("value", "record"),
    [
        ("a text", ONE),
        ({"inputs": {"text": "a text"}}, ONE),
        ({"instances": [{"inputs": "a text"}], "id": 7}, LIST),
        (["a text"], LIST),
        (["a text", "another"], Record(["a text", "another"], many=True)),
        ([{"text": "a text"}], LIST),
        ([], Record([], many=True)),
        ({"inputs": []}, Record([], many=True)),
        *(({key: "a text"}, ONE) for key in TEXT_KEYS),
        *(({key: ["a text"]}, LIST) for key in TEXT_KEYS),
        (PAIR, Record([HALVES])),
        ([PAIR], Record([HALVES], many=True)),
        ({"inputs": PAIR}, Record([HALVES])),
        ({"inputs": [PAIR, "a text"]}, Record([HALVES, "a text"], many=True)),
        ({"instances": [PAIR, PAIR]}, Record([HALVES, HALVES], many=True)),
    ],
)
def test_every_shape_is_read(value: Any, record: Record) -> None:
    assert read_record(value) == record


@pytest.mark.parametrize("value", [{"inputs": "a text"}, PAIR, {"inputs": PAIR}])
def test_parameters_travel_beside_the_texts(value: dict[str, Any]) -> None:
    assert read_record(value | {"parameters": {"top_k": 3}}).parameters == {"top_k": 3}
    assert read_record(value | {"parameters": None}).parameters == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "exactly one of the keys inputs, text, .*; it has none. Send"),
        ('{"input": "a"}', "it has 'input'"),
        ('{"inputs": "a", "text": "b"}', "it has 'inputs', 'text'"),
        ("7", "the text is 7, not a string"),
        ("null", "the text is null, not a string"),
        ("NaN", "the text is NaN, not a string"),
        ('{"inputs": 7}', "the text is 7, not a string"),
        ('["a", null]', "text 2 of 2 is null, not a string"),
        ('["a", ["b"]]', "text 2 of 2 is .*, not a string"),
        ('["a", {"inputs": ["b"]}]', "text 2 of 2 is .*, not a string"),
        ('["a", " \\n "]', "text 2 of 2 is empty"),
        ('""', "the text is empty"),
        ('{"text_pair": "b"}', '"text_pair" without "text" beside it'),
        ('{"inputs": "a", "text_pair": "b"}', '"text_pair" without "text" beside it'),
        ('{"inputs": "a", "text": "a", "text_pair": "b"}', '"text_pair" without "text" beside it'),
        ('{"text": "a", "text_pair": 7}', "the other half of the text is 7, not a string"),
        ('{"text": ["a"], "text_pair": ["b"]}', "the text is .* not a string"),
        ('["a", {"text": "a", "text_pair": " "}]', "the other half of text 2 of 2 is empty"),
        ('["a", {"text": "", "text_pair": "b"}]', "text 2 of 2 is empty"),
        ('{"inputs": "a", "parameters": [1]}', '"parameters" must be an object'),
        ('{"inputs": "a", "parameters": []}', '"parameters" must be an object'),
        ('{"inputs": "a", "parameters": 0}', '"parameters" must be an object'),
        ('{"inputs": "a", "top_k": 2}', '"top_k" stands beside the text; .* within "parameters"'),
    ],
)
def test_a_value_that_is_no_record_says_what_is_wrong(body: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read_record(json.loads(body))


def test_a_value_nested_as_deeply_as_can_be_read_is_no_fault_of_the_server() -> None:
    for depth in range(800, 10_000):
        try:
            value = json.loads("[" * depth + "]" * depth)
        except RecursionError:
            break
        with pytest.raises(BadRequest, match="text 1 of 1 is a list"):
            read_record(value)


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(BadRequest) as raised:
        read_record([["x" * 10_000]])
    assert len(str(raised.value)) < 300


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert read_record(json.loads(r'"fire \ud83d"')).texts == ["fire ?"]
