from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.train.reading import GOOD, Reader, json_lines, ones
from train import readers
from train.data import Dataset
from train.job import Channel


def test_column_name_that_occurs_twice_is_refused(read: Reader) -> None:
    assert "two columns are named 'label'" in read.error("text,label,label\nfire,1,2\n")


def test_columns_without_names_are_no_fault(read: Reader) -> None:
    assert len(read.train("text,label,,\nfire,1,,\nfine,0,,\n")) == 2


def test_text_of_100_000_characters_is_kept_whole(read: Reader) -> None:
    text = "fire " * 20_000
    assert read.train(GOOD + f"{text},1\n").texts[-1] == text


def test_broken_line_is_refused_with_its_number(read: Reader) -> None:
    message = read.error('text,label\n"two\nlines",1\nfire, and water,1\n')
    assert message.startswith(
        "data.csv line 4: 3 fields where the first line names 2 (text, label)"
    )


def test_line_with_too_few_fields_is_refused(read: Reader) -> None:
    assert "data.csv line 3: 1 fields where the first line names 2" in read.error(
        "text,label\nfire,1\nflood\n"
    )


def test_unclosed_quote_is_refused_with_the_line_where_it_opens(read: Reader) -> None:
    message = read.error('text,label\nfire,1\n"flood,1\n' + "fine,0\n" * 50)
    assert message.startswith("data.csv line 3: not valid CSV")
    assert "must end with one" in message


def test_quote_that_is_not_doubled_is_refused(read: Reader) -> None:
    message = read.error('text,label\n"say "hi" now",1\n')
    assert message.startswith("data.csv line 2: not valid CSV")
    assert 'must be doubled ("")' in message


def test_quoted_line_breaks_commas_and_quotes_are_kept(read: Reader) -> None:
    data = read.train('text,label\n"one\r\ntwo, ""three""\n",1\nfine,0\n')
    assert data.texts == ['one\r\ntwo, "three"\n', "fine"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(read: Reader, end: str) -> None:
    assert read.train(GOOD.replace("\n", end)).texts == ["fire", "flood", "fine", "fun"]


def test_blank_lines_and_a_missing_last_line_end_are_no_fault(read: Reader) -> None:
    assert len(read.train("\n" + GOOD.replace("\n", "\n\n").rstrip())) == 4


LATIN = "text,label\nfire,1\nfür,0\n".encode("latin-1")


def test_wrong_encoding_is_refused_with_line_and_byte(read: Reader) -> None:
    message = read.error({"data.csv": LATIN})
    assert message.startswith("data.csv line 3: byte 0xfc is not utf-8")
    assert "set the hyperparameter encoding (utf-8, latin-1" in message


def test_wrong_encoding_far_into_a_file_is_found_on_its_line(read: Reader) -> None:
    content = b"text,label\n" + b"fire,1\n" * 50_000 + b"f\xfcr,0\n"
    assert read.error({"data.csv": content}).startswith("data.csv line 50002: byte 0xfc")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "UTF8", "utf_8"])
def test_named_encoding_is_used(read: Reader, encoding: str) -> None:
    content = "text,label\nfür,1\nfine,0\n".encode(encoding)
    assert read.train({"data.csv": content}, encoding=encoding).texts[0] == "für"


def test_file_that_is_not_utf_16_is_refused(read: Reader) -> None:
    message = read.error(GOOD, encoding="utf-16")
    assert "not utf-16" in message
    assert "set the hyperparameter encoding (utf-8" in message


def test_encoding_that_does_not_exist_is_refused(read: Reader) -> None:
    assert "encoding='klingon' is no encoding" in read.error(GOOD, encoding="klingon")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_file_is_refused_with_what_to_set(read: Reader, encoding: str) -> None:
    message = read.error({"data.csv": GOOD.encode(encoding)})
    assert message.startswith("data.csv line 1: ")
    assert "encoding" in message


def test_nul_bytes_are_refused_with_their_line(read: Reader) -> None:
    message = read.error({"data.csv": b"text,label\nfire,1\nfl\0od,1\n"})
    assert message.startswith("data.csv line 3: there are NUL bytes")


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF-8"])
def test_byte_order_mark_is_dropped(read: Reader, encoding: str) -> None:
    files = {"data.csv": b"\xef\xbb\xbf" + GOOD.encode()}
    assert len(read.train(files, encoding=encoding)) == 4


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "json", "jsonlines", "JSONL"])
def test_json_lines_are_read(read: Reader, extension: str) -> None:
    content = '{"text": "fire", "label": "1"}\n\n{"label": "0", "text": "f\\u00fcr"}'
    data = read.train({f"data.{extension}": content})
    assert data == Dataset(["fire", "für"], ones("1", "0"))


def test_line_that_is_not_json_is_refused_with_its_number(read: Reader) -> None:
    message = read.error({"data.jsonl": '{"text": "a", "label": 1}\n{"text": \n'})
    assert message.startswith("data.jsonl line 2: not valid JSON: Expecting value at column")


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_is_refused_with_the_form_that_is_wanted(
    read: Reader, indent: int | None
) -> None:
    message = read.error({"data.json": json.dumps([{"text": "a", "label": 1}], indent=indent)})
    assert message.startswith("data.json line 1: ")
    assert "each line must be an object of its own" in message
    assert "without an array around them" in message


def test_key_that_a_later_row_lacks_is_refused_with_its_line(read: Reader) -> None:
    message = read.error(json_lines({"text": "a", "label": 1}, {"text": "b", "lable": 0}))
    assert message == (
        "data.jsonl line 2: there is no 'label', which earlier lines have; it has text, lable"
    )


@pytest.mark.parametrize("name", ["data.csv.zip", "data.gz", "data", "data.txt"])
def test_unknown_extension_is_refused_with_those_that_are_known(read: Reader, name: str) -> None:
    message = read.error({name: GOOD})
    assert message.startswith(f"{name}: files must end in .csv, .tsv, .jsonl")
    assert "text/csv" in message


@pytest.mark.parametrize("declared", ["text/csv", "Text/CSV; charset=utf-8"])
def test_content_type_says_what_an_extension_does_not(read: Reader, declared: str) -> None:
    files = {"part-0000": GOOD}
    inputs = {channel: {"ContentType": declared} for channel in ("train", "test")}
    assert len(read.train(files, inputs=inputs)) == 4


def test_nested_folders_and_several_files_are_one_channel(read: Reader) -> None:
    files = {"b/c/two.csv": GOOD, "a/one.jsonl": '{"review": "first", "rating": 5}', "_SUCCESS": ""}
    data = read.train(files)
    assert data.texts == ["first", "fire", "flood", "fine", "fun"]


def test_message_names_the_folder_of_the_file(read: Reader) -> None:
    assert read.error({"a/b/data.csv": "text,label\nx\n"}).startswith("a/b/data.csv line 2: ")


@pytest.mark.parametrize("name", ["_delta_log/0.json", ".ipynb_checkpoints/a.csv", "a/_tmp/b.csv"])
def test_folders_that_tools_keep_for_themselves_are_left_out(read: Reader, name: str) -> None:
    assert len(read.train({"data.csv": GOOD, name: "no data"})) == 4


def test_tabs_separate_the_fields_of_tsv(read: Reader) -> None:
    data = read.train({"data.tsv": 'text\tlabel\nfire, and "water"\t1\n"a\tb"\t0\n'})
    assert data.texts == ['fire, and "water"', "a\tb"]


@pytest.mark.parametrize(
    ("declared", "content"),
    [
        ("text/tab-separated-values", GOOD.replace(",", "\t")),
        ("application/jsonlines", '{"text": "fire", "label": 1}\n{"text": "fine", "label": 0}'),
        ("Application/JSONLines; charset=utf-8", '{"y":1,"text":"fire"}\n{"y":2,"text":"b"}\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["part-0000", "part-0000.gz", "a.b/part"])
def test_every_declared_content_type_is_read(
    read: Reader, declared: str, content: str, name: str
) -> None:
    data = content.encode()
    inputs = {channel: {"ContentType": declared} for channel in ("train", "test")}
    files = {name: gzip.compress(data) if name.endswith(".gz") else data}
    assert read.train(files, inputs=inputs).texts[0] == "fire"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv.gz", GOOD),
        ("data.TSV.GZ", GOOD.replace(",", "\t")),
        ("data.jsonl.gz", '{"text": "fire", "label": 1}\n{"text": "fun", "label": 0}\n'),
        ("data.csv", GOOD),
    ],
)
def test_gzipped_files_are_read_whatever_their_name(read: Reader, name: str, content: str) -> None:
    data = content.encode()
    half = len(data) // 2
    members = gzip.compress(data[:half]) + gzip.compress(data[half:])
    texts = read.train({name: members}).texts
    assert (texts[0], texts[-1]) == ("fire", "fun")


def test_gzipped_file_keeps_its_line_numbers(read: Reader) -> None:
    content = gzip.compress(b"text,label\nfire,1\nf\xfcr,0\n")
    assert read.error({"data.csv.gz": content}).startswith("data.csv.gz line 3: byte 0xfc")


ZIPPED = gzip.compress((GOOD + "".join(f"text {n} {n**3},1\n" for n in range(5000))).encode())


@pytest.mark.parametrize(
    "content", [ZIPPED[: len(ZIPPED) // 2], ZIPPED[:-4], ZIPPED[:-8] + b"\0" * 8,
                ZIPPED[:5], ZIPPED + b"more"],
)  # fmt: skip
def test_broken_gzip_data_is_refused(read: Reader, content: bytes) -> None:
    message = read.error({"data.csv.gz": content})
    assert message.startswith("data.csv.gz line ")
    assert "gzip data is broken" in message


def test_file_that_only_is_called_gzipped_is_refused(read: Reader) -> None:
    assert read.error({"data.csv.gz": GOOD}).startswith("data.csv.gz: not gzip data")


def test_empty_gzipped_file_is_an_empty_file(read: Reader) -> None:
    files = {"a.csv.gz": b"", "b.csv.gz": gzip.compress(b""), "c.csv": GOOD.encode()}
    assert len(read.train(files)) == 4


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"text": "a", "label": ' + "9" * 5000 + "}", '{"a":1} {"a":2}']
)
def test_json_that_python_will_not_read_is_refused(read: Reader, line: str) -> None:
    assert read.error({"data.jsonl": line}).startswith("data.jsonl line 1: not valid JSON: ")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("lines", [0, 1, 700, 30_000])
def test_line_of_a_wrong_byte_is_exact_wherever_it_stands(
    read: Reader, end: str, lines: int
) -> None:
    content = f"text,label{end}" + f"für,1{end}" * lines
    message = read.error({"data.csv": content.encode() + b"f\xfcr,0"})
    assert message.startswith(f"data.csv line {lines + 2}: byte 0xfc")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_line_of_a_wrong_byte_is_exact_in_utf_16(read: Reader, encoding: str) -> None:
    content = ("text,label\n" + "fire,1\n" * 5000).encode(encoding)
    lone = "\ud800".encode(encoding.replace("16", "16-le") if encoding == "utf-16" else encoding,
                           "surrogatepass")  # fmt: skip
    message = read.error({"data.csv": content + lone + "a,1\n".encode(encoding[:9])},
                         encoding=encoding)  # fmt: skip
    assert message.startswith("data.csv line 5002: byte 0x")


def test_character_that_the_end_of_a_file_cuts_is_refused(read: Reader) -> None:
    assert read.error({"data.csv": b"text,label\nfire,1\nfire\xc3"}).startswith(
        "data.csv line 3: byte 0xc3"
    )


def as_parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


TABLE: dict[str, Any] = {
    "id": [1, 2, 3],
    "text": ["fire", "für", None],
    "label": [1, 0, 1],
    "vector": [[0.5], [1.0], []],
}


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_parquet_is_read(read: Reader, compression: str) -> None:
    files = {"a/part-0.snappy.parquet": as_parquet(TABLE, compression=compression)}
    assert read.train(files) == Dataset(["fire", "für"], ones("1", "0"))


def test_parquet_is_read_where_the_channel_declares_it(read: Reader) -> None:
    inputs = {name: {"ContentType": "application/x-parquet"} for name in ("train", "test")}
    assert len(read.train({"part-0": as_parquet(TABLE)}, inputs=inputs)) == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ([1.5, 2.0], ("1.5", "2.0")),
        ([True, False], ("true", "false")),
        ([Decimal("1.50"), Decimal(2)], ("1.50", "2.00")),
        ([date(2026, 1, 2), date(2026, 1, 3)], ("2026-01-02", "2026-01-03")),
        (pa.array(["a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array(["a", "b"], pa.large_string()), ("a", "b")),
    ],
)
def test_labels_of_every_simple_parquet_type_are_read(
    read: Reader, labels: Any, expected: tuple[str, str]
) -> None:
    files = {"data.parquet": as_parquet({"text": ["x", "y"], "label": labels})}
    assert read.train(files).labels == ones(*expected)


def test_parquet_numbers_that_are_none_are_missing(read: Reader) -> None:
    labels = pa.array([1.0, float("nan"), 0.0, None], from_pandas=False)
    files = {"data.parquet": as_parquet({"text": ["x"] * 4, "label": labels})}
    assert read.train(files).labels == ones("1.0", "0.0")


def test_parquet_lists_are_lists_of_labels(read: Reader) -> None:
    table = {"text": ["x", "y", "z", "w"], "label": [["b", "a"], [], None, ["a"]]}
    data = read.train({"data.parquet": as_parquet(table)})
    assert data == Dataset(["x", "y", "w"], [("a", "b"), (), ("a",)], multi_label=True)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", [{"a": "x"}] * 2, 'the text in \'text\' is {"a": "x"}, not a string'),
        ("text", [1, 2], "the text in 'text' is 1, not a string"),
        ("text", [b"x", b"y"], "the text in 'text' is "),
        ("label", [{"a": "x"}] * 2, 'the label in \'label\' is {"a": "x"}; it must be one'),
        ("label", [b"x", b"y"], "the label in 'label' is "),
        ("label", [[[1]], [[2]]], "the label in 'label' is "),
    ],
)
def test_nested_and_binary_parquet_columns_are_refused(
    read: Reader, column: str, values: list[Any], message: str
) -> None:
    table = {"text": ["x", "y"], "label": [1, 2]} | {column: values}
    found = read.error({"data.parquet": as_parquet(table)})
    assert found.startswith(f"data.parquet row 1: {message}")


def test_parquet_without_the_column_is_refused_with_those_it_has(read: Reader) -> None:
    message = read.error({"data.parquet": as_parquet({"txt": ["x"], "label": [1]})})
    assert "none is known to be the text column; the columns are 'txt', 'label'" in message


def test_parquet_row_is_named_across_batches(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BATCH_ROWS", 2)
    labels: list[list[Any]] = [["a"], ["b"], ["a"], ["b"], [None]]
    message = read.error({"data.parquet": as_parquet({"text": ["x"] * 5, "label": labels})})
    assert message.startswith("data.parquet row 5: the label in 'label' is null")


BYTES = as_parquet({"text": [f"text {n}" for n in range(5000)], "label": list(range(5000))})


@pytest.mark.parametrize(
    "content", [b"PAR1", GOOD.encode(), BYTES[:-10], BYTES[len(BYTES) // 2 :],
                BYTES[:100] + b"\xff" * 2000 + BYTES[2100:]],
)  # fmt: skip
def test_broken_parquet_file_is_refused(read: Reader, content: bytes) -> None:
    message = read.error({"data.parquet": content})
    assert message.startswith("data.parquet: not a Parquet file, or a broken one: ")
    assert len(message) < 400


def test_empty_parquet_files_are_no_fault(read: Reader) -> None:
    nothing = {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}
    files = {"a.parquet": b"", "b.parquet": as_parquet(nothing), "c.parquet": as_parquet(TABLE)}
    assert len(read.train(files)) == 2


def test_gzipped_parquet_file_is_refused(read: Reader) -> None:
    message = read.error({"data.parquet.gz": gzip.compress(as_parquet(TABLE))})
    assert message.startswith("data.parquet.gz: a gzipped Parquet file is not read")


def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet(TABLE))
    rows = readers.read_rows(Channel("train", tmp_path), "utf-8", lambda columns, where: ["label"])
    assert list(rows) == [(f"a.parquet row {n}", (label,)) for n, label in enumerate((1, 0, 1), 1)]
