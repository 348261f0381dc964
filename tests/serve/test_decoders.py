from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serve.decoders import DECODERS, LINE_TYPES, Payload, Reader, decode
from serve.errors import BadRequest, RequestError, UnsupportedMediaType
from serve.records import Record
from textmodel.tokenizer import Text


def read(body: bytes, content_type: str | None, batch: bool = False) -> list[Record | RequestError]:
    return list(payload(body, content_type, batch).records)


def payload(body: bytes, content_type: str | None, batch: bool = False) -> Payload:
    return decode(io.BytesIO(body), content_type, Reader(batch))


def texts(body: bytes, content_type: str | None, batch: bool = False) -> list[Text]:
    return [text for record in read(body, content_type, batch) for text in _record(record).texts]


def told(body: bytes, content_type: str | None, batch: bool = False) -> list[str]:
    """Return for each record its texts, or what is wrong with it."""
    return [
        str(record) if isinstance(record, RequestError) else str(record.texts)
        for record in read(body, content_type, batch)
    ]


def _record(record: Record | RequestError) -> Record:
    assert isinstance(record, Record), record
    return record


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# Media types


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "APPLICATION/JSON", "application/json; x=y",
     'Application/Json ; charset="UTF-8"', "application/json;charset=utf8"],
)  # fmt: skip
def test_json_is_read_whatever_the_spelling_of_its_type(content_type: str | None) -> None:
    assert texts('"Überschwemmung"'.encode(), content_type) == ["Überschwemmung"]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ('"Überschwemmung"', "application/json"),
        ('"Überschwemmung"', "application/jsonlines"),
        ("Überschwemmung", "text/csv"),
        ("Überschwemmung", "text/plain"),
    ],
)
@pytest.mark.parametrize("charset", ["ISO-8859-1", "windows-1252", "utf-8", "'utf-8'"])
def test_the_charset_of_the_content_type_is_heeded(
    body: str, media_type: str, charset: str
) -> None:
    encoded = body.encode(charset.strip("'"))
    quoted = charset.replace("'", '"')
    assert texts(encoded, f"{media_type}; charset={quoted}") == ["Überschwemmung"]


@pytest.mark.parametrize("media_type", DECODERS)
@pytest.mark.parametrize(
    "charset", ["klingon", "idna", "base64", "unicode_escape", "utf-16", "cp037"]
)
def test_an_unknown_charset_is_named(media_type: str, charset: str) -> None:
    with pytest.raises(BadRequest, match="charset"):
        read(b'"\xff"', f"{media_type}; charset={charset}")


def test_a_byte_order_mark_is_no_part_of_a_text() -> None:
    for media_type, body in (("application/json", '"a"'), ("text/csv", "text\na\n"),
                             ("application/jsonlines", '"a"'), ("text/plain", "a")):  # fmt: skip
        assert texts(b"\xef\xbb\xbf" + body.encode(), media_type) == ["a"]


@pytest.mark.parametrize("content_type", ["image/png", "json", "application/*", ";charset=utf-8"])
def test_an_unknown_content_type_is_named_with_those_that_are_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"application/json.*text/csv.*x-npy"):
        read(b'"a"', content_type)


# JSON


def test_each_text_of_a_json_body_is_a_record_with_its_wishes() -> None:
    body = b'{"inputs": ["a", "b"], "parameters": {"top_k": 3}}'
    wishes = {"top_k": 3}
    assert read(body, None) == [Record(["a"], False, wishes), Record(["b"], False, wishes)]


def test_no_texts_are_no_error() -> None:
    assert read(b'{"inputs": []}', "application/json") == []


def test_parameters_are_checked_where_there_is_no_text_too() -> None:
    with pytest.raises(BadRequest, match="truncation"):
        read(b'{"inputs": [], "parameters": {"truncation": {}}}', "application/json")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty. Send"),
        (b'{"inputs": ', "not JSON"),
        (b'"a"\n"b"', "not JSON: Extra data.*application/jsonlines"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "byte 0xff at 0"),
        (b'{"inputs": 7}', "the text is 7, not a string"),
    ],
)
def test_a_json_body_that_cannot_be_read_says_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read(body, "application/json")


def test_lines_called_json_are_read_as_lines_in_batch_transform() -> None:
    body = b'{"inputs": "a"}\n{"inputs": "b"}\nnonsense'
    assert told(body, "application/json", batch=True)[:2] == ["['a']", "['b']"]
    assert payload(body, "application/json", batch=True).in_place
    with pytest.raises(BadRequest, match="not JSON"):
        read(body, "application/json")


# Lines of JSON


@pytest.mark.parametrize("media_type", LINE_TYPES)
def test_each_line_is_a_record(media_type: str) -> None:
    lines = [
        '{"inputs": "a", "parameters": {"top_k": 2}}', '{"text": "b"}', '"c"', '["d", "e"]',
        '{"features": "f"}', '{"source": "g"}', '{"review_body": "h"}',
        '{"text": "i", "text_pair": "j"}',
    ]  # fmt: skip
    found = read("\n".join(lines).encode(), media_type)
    assert [_record(record).texts for record in found] == [
        ["a"], ["b"], ["c"], ["d", "e"], ["f"], ["g"], ["h"], [("i", "j")],
    ]  # fmt: skip
    assert _record(found[0]).parameters == {"top_k": 2}
    assert payload(b"", media_type).in_place


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "unended"])
def test_lines_end_as_on_any_system(end: str, last: bool) -> None:
    body = end.join(['"a"', '"b"']) + end * last
    assert told(body.encode(), "application/jsonlines") == ["['a']", "['b']"]


def test_a_bad_line_is_an_error_in_its_place() -> None:
    body = b'"a"\n{"inputs": 7}\n\n{\n\xff\n' + b"[" * 100_000 + b'\n{"no": 1}\n"z"\n'
    first, *bad, last = told(body, "application/jsonlines")
    assert (first, last) == ("['a']", "['z']")
    parts = ["7, not a string", "is empty", "not JSON", "byte 0xff", "too deeply", "keys"]
    for message, part in zip(bad, parts, strict=True):
        assert part in message


def test_a_line_separator_of_unicode_ends_no_line() -> None:
    assert texts('"a\u2028b\x85c"\n"d"'.encode(), "application/jsonlines") == ["a\u2028b\x85c", "d"]


def test_lines_are_read_as_they_come() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:4] = b'"a"\n'
            return 4

    for media_type in ("application/jsonlines", "text/csv"):
        records = decode(io.BufferedReader(Endless()), media_type).records
        assert [_record(next(records)).texts for _ in range(3)] == [["a"]] * 3


# CSV


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("a\rb", ["a", "b"]),
        ("text\na\nb\n", ["a", "b"]),
        ('"text"\n"a"\n', ["a"]),
        (" Text \na\n", ["a"]),
        ("id,text,label\n1,a,x\n2,b,y\n", ["a", "b"]),
        ("review_body,stars\na,5\n", ["a"]),
        ('"a, b"\n"say ""hi"""\n', ["a, b", 'say "hi"']),
        ('"two\nlines"\n"three\r\n\r\nlines"\n', ["two\nlines", "three\r\n\r\nlines"]),
        ('say "hi"\n', ['say "hi"']),
        ("text,text_pair\na,b\n", [("a", "b")]),
        ("text_pair,id,text\nb,1,a\n", [("a", "b")]),
        ("text", []),
    ],
)
def test_rows_are_read_with_and_without_a_header(body: str, expected: list[Text]) -> None:
    assert texts(body.encode(), "text/csv") == expected


def test_the_answer_to_a_body_with_a_header_has_one() -> None:
    assert payload(b"text\na", "text/csv").header
    assert not payload(b"a\nb", "text/csv").header


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a\n\nb\n", ["['a']", "the row is empty", "['b']"]),
        (b"\n\na\n\n", ["the row is empty", "the row is empty", "['a']", "the row is empty"]),
        (b"\ntext\na\n", ["the row is empty", "['a']"]),
        (b"a\n\xff\nb\n", ["['a']", "bytes that are not of its charset", "['b']"]),
        (b'a\n"b" c\nd\n', ["['a']", "the row is not CSV", "['d']"]),
        (b'"b" c\na\n', ["the row is not CSV", "['a']"]),
        (b'a\n"never closed\nb\n', ["['a']", "the row is not CSV: unexpected end"]),
        (b"a\nb,c\nd\n", ["['a']", "the row has 2 columns, and no header", "['d']"]),
        (b"text,id\na,1\nb\n", ["['a']", "the row has 1 columns, the header 2"]),
        (b'text\n" "\nb\n', ["the text is empty", "['b']"]),
        (b"\n", ["the row is empty"]),
    ],
)
def test_a_bad_row_is_an_error_in_its_place(body: bytes, expected: list[str]) -> None:
    for found, part in zip(told(body, "text/csv"), expected, strict=True):
        assert part in found


@pytest.mark.parametrize(
    ("body", "pairs", "message"),
    [
        (b"1,a flood\n2,bread\n", False, "2 columns, and no header .* one text a row.* id,text,"),
        (b"id,message\n1,a\n", False, "one of inputs, text, instances"),
        (b"a,b,c\n", False, "the row has 3 columns"),
        (b"1,a,b\n", True, "the row has 3 columns.* two texts a row.* id,text,text_pair"),
        (b"a\nb\n", True, "the row has 1 columns.* two texts a row"),
    ],
)
def test_columns_that_nobody_names_are_refused(body: bytes, pairs: bool, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(io.BytesIO(body), "text/csv", Reader(pairs=pairs))


def test_two_columns_without_a_header_are_a_pair_for_a_model_of_pairs() -> None:
    records = decode(io.BytesIO(b"a,b\nc\nd,e\n"), "text/csv", Reader(pairs=True)).records
    first, bad, last = records
    assert (_record(first).texts, _record(last).texts) == ([("a", "b")], [("d", "e")])
    assert "the row has 1 columns" in str(bad)


def test_in_a_batch_transform_job_each_row_stands_for_itself() -> None:
    assert told(b"1,a\nb\n", "text/csv", batch=True)[1:] == ["['b']"]
    assert "no header" in told(b"1,a\nb\n", "text/csv", batch=True)[0]


def test_an_empty_csv_is_refused() -> None:
    with pytest.raises(BadRequest, match="the body is empty"):
        read(b"", "text/csv")


def test_a_row_may_be_as_long_as_a_body() -> None:
    assert texts(b"a" * 200_000, "text/csv") == ["a" * 200_000]


# Plain text


def test_plain_text_is_one_text() -> None:
    assert texts(b"two\nlines\n", "text/plain") == ["two\nlines\n"]
    for body in (b"", b" \n"):
        with pytest.raises(BadRequest, match="the body is empty"):
            read(body, "text/plain")


def test_plain_text_is_a_text_a_line_in_batch_transform() -> None:
    body = b"one\r\n\ntwo, with commas\n\xff"
    first, empty, second, bad = told(body, "text/plain", batch=True)
    assert (first, second) == ("['one']", "['two, with commas']")
    assert "empty" in empty
    assert "byte 0xff" in bad


# npy


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array(["a", "longer", "💔"]), ["a", "longer", "💔"]),
        (np.array(["a"], ">U3"), ["a"]),
        (np.array([b"a", "ü".encode()]), ["a", "ü"]),
        (np.array("a"), ["a"]),
        (np.array([], "U1"), []),
    ],
)
def test_arrays_of_strings_are_read(array: Any, expected: list[str]) -> None:
    assert texts(npy(array), "application/x-npy") == expected


def header(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(0x75).encode() + b"\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no npy file.*Send what numpy.save writes"),
        (b"PK\x03\x04 no archive", "no npy file"),
        (b"\x93NUMPY\x09\x00", "no npy file"),
        (npy(np.zeros(3)), "must hold strings.*float64"),
        (npy(np.array([["a"]])), r"must hold strings.*\(1, 1\)"),
        (npy(np.array(["a", None], object)), "must hold strings.*object"),
        (npy(np.array(["a", "b"]))[:-1], "not the size"),
        (header("<U9", "(10000000000000,)"), "not the size"),
        (header("<U0", "(10000000000000,)"), "not the size"),
        (header("<U1", "(1,)") + b"\xff" * 4, "no character"),
        (header("<U1", "(-1,)"), "not the size"),
        (header("<U1", "(1, 'a'"), "no npy file"),
        (npy(np.array([b"\xff"])), "byte 0xff"),
        (npy(np.array(["a", ""])), "text 2 of 2 is empty"),
    ],
)
def test_an_array_that_cannot_be_read_says_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read(body, "application/x-npy")


def test_a_pickle_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("a pickle was loaded"))
    with pytest.raises(BadRequest, match="object"):
        read(npy(np.array([{"a": 1}], object)), "application/x-npy")


# Whatever comes


def _mutations() -> Iterator[tuple[str, bytes]]:
    generator = random.Random(7)
    seeds = {
        "application/json": json.dumps({"inputs": ["a", {"text": "b", "text_pair": "c"}]}).encode(),
        "application/jsonlines": b'"a"\n{"inputs": "b", "parameters": {"top_k": 1}}\n',
        "text/csv": b'id,text\n1,"a ""b"" c"\n2,d\n',
        "text/plain": b"a\nb",
        "application/x-npy": npy(np.array(["a", "bc"])),
    }
    for media_type, seed in seeds.items():
        for _ in range(400):
            body = bytearray(seed)
            for _ in range(generator.randint(1, 6)):
                place = generator.randrange(len(body) + 1)
                kind = generator.randrange(3)
                if kind == 0:
                    body[place:place] = bytes([generator.choice(b'\0\n\r",{}[]\\\xff a1')])
                elif kind == 1:
                    del body[place : place + generator.randint(1, 4)]
                elif place < len(body):
                    body[place] = generator.randrange(256)
            yield media_type, bytes(body)


@pytest.mark.parametrize("batch", [False, True])
def test_no_body_is_a_fault_of_the_server(batch: bool) -> None:
    for media_type, body in _mutations():
        try:
            for record in read(body, media_type, batch):
                assert isinstance(record, (Record, BadRequest))
        except BadRequest:
            continue
        except Exception as error:
            pytest.fail(f"{media_type} {body!r}: {error!r}")
