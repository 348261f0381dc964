from __future__ import annotations

import pytest
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from serve.codec import Payload, decode, encoder_for
from serve.errors import BadRequest, NotAcceptable, UnsupportedMediaType


def accept(header: str) -> MIMEAccept:
    return parse_accept_header(header, MIMEAccept)


@pytest.mark.parametrize(
    "body",
    [
        '"a text"',
        '["a text"]',
        '{"inputs": "a text"}',
        '{"inputs": ["a text"]}',
        '{"inputs": {"text": "a text"}}',
        '{"text": "a text"}',
        '{"instances": ["a text"]}',
        '{"instances": [{"text": "a text"}]}',
        '{"instances": [{"inputs": "a text"}], "id": 7}',
    ],
)
def test_every_payload_shape_means_the_same(body: str) -> None:
    assert decode(body.encode(), "application/json") == Payload(["a text"])


PAIR = '{"text": "a text", "text_pair": "its other half"}'


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (PAIR, 1),
        (f"[{PAIR}]", 1),
        (f'{{"inputs": {PAIR}}}', 1),
        (f'{{"inputs": [{PAIR}, {PAIR}]}}', 2),
        (f'{{"instances": [{PAIR}, {PAIR}]}}', 2),
    ],
)
def test_every_payload_of_pairs_means_the_same(body: str, count: int) -> None:
    assert decode(body.encode(), None) == Payload([("a text", "its other half")] * count)


def test_parameters_travel_beside_a_pair() -> None:
    body = b'{"text": "a", "text_pair": "b", "parameters": {"top_k": 3}}'
    assert decode(body, None) == Payload([("a", "b")], {"top_k": 3})


def test_texts_and_pairs_may_come_together() -> None:
    assert decode(f'["a", {PAIR}]'.encode(), None).texts == ["a", ("a text", "its other half")]


def test_parameters_travel_beside_the_texts() -> None:
    payload = decode(b'{"inputs": "a", "parameters": {"top_k": 3}}', "application/json")
    assert payload == Payload(["a"], {"top_k": 3})


@pytest.mark.parametrize("content_type", [None, "", "APPLICATION/JSON", "application/json; x=y"])
def test_json_is_read_whatever_the_spelling_of_its_type(content_type: str | None) -> None:
    assert decode(b'"a"', content_type).texts == ["a"]


def test_the_charset_of_the_content_type_is_heeded() -> None:
    body = '"Überschwemmung"'.encode("latin-1")
    assert decode(body, "application/json; charset=ISO-8859-1").texts == ["Überschwemmung"]


def test_no_texts_are_no_error() -> None:
    assert decode(b'{"inputs": []}', "application/json").texts == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b'{"inputs": ', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "byte 0xff at 0"),
        (b"{}", "one of the keys inputs, text, instances; it has none"),
        (b'{"input": "a"}', "it has 'input'"),
        (b'{"inputs": "a", "text": "b"}', "it has 'inputs', 'text'"),
        (b'{"inputs": 7}', "the text is 7, not a string"),
        (b'["a", null]', "text 1 is null, not a string"),
        (b'["a", ["b"]]', "text 1 is .*, not a string"),
        (b'["a", " \\n "]', "text 1 is empty"),
        (b'""', "the text is empty"),
        (b'{"text_pair": "b"}', '"text_pair" without "text" beside it'),
        (b'{"inputs": "a", "text_pair": "b"}', '"text_pair" without "text" beside it'),
        (b'{"inputs": "a", "text": "a", "text_pair": "b"}', '"text_pair" without "text" beside it'),
        (b'{"text": "a", "text_pair": 7}', "the other half of the text is 7, not a string"),
        (b'{"text": ["a"], "text_pair": ["b"]}', "the text is .* not a string"),
        (b'["a", {"text": "a", "text_pair": " "}]', "the other half of text 1 is empty"),
        (b'["a", {"text": "", "text_pair": "b"}]', "text 1 is empty"),
        (b'{"inputs": "a", "parameters": [1]}', '"parameters" must be an object'),
    ],
)
def test_a_body_that_cannot_be_read_says_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(body, "application/json")


@pytest.mark.parametrize("charset", ["klingon", "idna", "base64", "utf-8\0"])
def test_an_unknown_charset_is_named(charset: str) -> None:
    with pytest.raises(BadRequest, match="charset"):
        decode(b'"\xff"', f"application/json; charset={charset}")


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert decode(rb'"fire \ud83d"', "application/json").texts == ["fire ?"]


def test_an_unknown_content_type_is_named_with_those_that_are_read() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"'image/png'.*application/json"):
        decode(b"", "image/png")


@pytest.mark.parametrize(
    "header", ["", "*/*", "application/*", "text/html, application/json;q=0.1"]
)
def test_json_is_written_where_it_is_accepted(header: str) -> None:
    media_type, encode = encoder_for(accept(header))
    assert media_type == "application/json"
    assert encode([{"label": "Überflutung"}]) == '[{"label": "Überflutung"}]'.encode()


def test_an_accept_header_without_json_is_refused_naming_what_is_written() -> None:
    with pytest.raises(NotAcceptable, match=r"text/html.*application/json"):
        encoder_for(accept("text/html"))


def test_a_number_that_json_lacks_is_never_written() -> None:
    _, encode = encoder_for(accept("*/*"))
    with pytest.raises(ValueError, match="JSON"):
        encode([float("nan")])
