"""Bodies to records, by media type. Formats of lines and rows are read as they come.

In those a bad record is an error in its place, because the others are answered all the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from werkzeug.http import parse_options_header

from serve.errors import BadRequest, RequestError, UnsupportedMediaType
from serve.npy import read_npy
from serve.parameters import Parameters
from serve.records import PAIR_KEY, SHAPES, TEXT_KEYS, Record, read_record, read_text

__all__ = [
    "CSV",
    "DECODERS",
    "JSON",
    "LINES",
    "NPY",
    "Payload",
    "Reader",
    "charset_of",
    "decode",
    "read_string",
]

JSON, LINES, CSV, NPY = "application/json", "application/jsonlines", "text/csv", "application/x-npy"
LINE_TYPES = (
    LINES,
    "application/x-jsonlines",
    "application/jsonl",
    "application/x-jsonl",
    "application/x-ndjson",
    "application/ndjson",
)

csv.field_size_limit(2**31 - 1)  # the largest body is what limits a text

_ASCII = bytes(range(128))
_LETTERS = _ASCII.decode("ascii")
_LENIENT = "surrogateescape"
"""Bytes that are no characters become lone surrogates, which only their own row suffers from."""

Records = Iterator[Record | RequestError]


@dataclass(frozen=True)
class Payload:
    """What a client sent."""

    records: Records
    """Each is answered in its place."""
    answer_type: str
    """The media type of the answer, if the client has no wish."""
    in_place: bool = False
    """Whether an error stands in the place of its record; else it fails the request."""
    header: bool = False
    """Whether there was a header line, which the answer then has too."""


@dataclass(frozen=True)
class Reader:
    """What decides how a body is read, besides its type."""

    batch: bool = False
    """Whether it may be cut out of a file, in lines, by a batch transform job."""
    pairs: bool = False
    """Whether the model was trained on pairs of texts."""


def decode(stream: BinaryIO, content_type: str | None, reader: Reader = Reader()) -> Payload:
    """Read a request body; without a content type it is taken for JSON.

    Raises:
        UnsupportedMediaType: the type is not in DECODERS.
        BadRequest: the body is not what its type promises.
    """
    media_type, options = parse_options_header(content_type or JSON)
    decoder = DECODERS.get(media_type.lower())
    if decoder is None:
        raise UnsupportedMediaType(
            f"Content-Type {media_type!r:.100} is not read here; send {', '.join(DECODERS)}"
        )
    return decoder(stream, charset_of(options.get("charset", "utf-8")), reader)


def charset_of(name: str) -> str:
    """Return Python's name of a character set that ASCII is a part of.

    Raises:
        BadRequest: it is none.
    """
    try:
        found = codecs.lookup(name).name
        if _LETTERS.encode(found) == _ASCII and _ASCII.decode(found, _LENIENT) == _LETTERS:
            return found
    except (LookupError, ValueError):
        pass
    raise BadRequest(f"charset {name!r:.40} is not read here; send utf-8")


def _json(stream: BinaryIO, charset: str, reader: Reader) -> Payload:
    text = read_string(stream.read(), charset)
    if not text.strip():
        raise BadRequest(f"the body is empty. Send {SHAPES}")
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadRequest(f"the body is nested too deeply. Send {SHAPES}") from None
    except ValueError as error:
        lines = "Extra data" in str(error)
        if reader.batch and lines:
            return _lines(io.BytesIO(text.encode()), "utf-8", reader)
        advice = f"If it is a value a line, say {LINES}" if lines else f"Send {SHAPES}"
        raise BadRequest(f"the body is not JSON: {error}. {advice}") from None
    record = read_record(value)
    if not record.texts:
        Parameters.read(record.parameters)  # those of a text are read beside it
    return Payload(iter([Record([text], False, record.parameters) for text in record.texts]), JSON)


def _lines(stream: BinaryIO, charset: str, reader: Reader) -> Payload:
    return Payload((_attempt(_line, line, charset) for line in stream), LINES, in_place=True)


def _line(line: bytes, charset: str) -> Record:
    text = read_string(line, charset).strip()
    if not text:
        raise BadRequest("the line is empty")
    try:
        return read_record(json.loads(text))
    except RecursionError:
        raise BadRequest(f"the line is nested too deeply. Send {SHAPES}") from None
    except ValueError as error:
        raise BadRequest(f"the line is not JSON: {error}. Send {SHAPES}") from None


def _csv(stream: BinaryIO, charset: str, reader: Reader) -> Payload:
    encoding = "utf-8-sig" if charset == "utf-8" else charset
    text = io.TextIOWrapper(stream, encoding, errors=_LENIENT, newline="")
    rows = _rows(csv.reader(text, strict=True))
    bad: list[RequestError] = []  # rows before the one that tells what the columns are
    first: list[str] = []
    for row in rows:
        if isinstance(row, list):
            first = row
            break
        bad.append(row)
    if not first and not bad:
        raise BadRequest("the body is empty; send a text a row, quoted if it has commas in it")
    names = [name.strip().lower() for name in first]
    columns = [names.index(key) for key in TEXT_KEYS if key in names][:1]
    if columns and PAIR_KEY in names:
        columns.append(names.index(PAIR_KEY))
    header, width = bool(columns), len(first)
    if not header:
        width = 2 if reader.pairs else 1
        if len(first) not in (0, width) and not reader.batch:
            raise _no_texts(len(first), width)
        columns = list(range(width))
        rows = chain([first] if first else [], rows)
    records = (_attempt(_row, row, columns, width, header) for row in rows)
    return Payload(chain(bad, records), CSV, in_place=True, header=header)


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str] | RequestError]:
    """Yield rows that have something in them; what is no such row is an error in its place."""
    while True:
        try:
            yield next(reader) or BadRequest("the row is empty")
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRequest(f"the row is not CSV: {error}; a quote within a text is written twice")


def _no_texts(found: int, width: int) -> BadRequest:
    """Return what is wrong with a row of so many columns, none of which a header names."""
    row, header = (("one text", "id,text"), ("two texts", f"id,text,{PAIR_KEY}"))[width - 1]
    return BadRequest(
        f"the row has {found} columns, and no header names the text; this model reads {row} a row, "
        f'quoted where it has commas in it ("a, b"), or below a header such as {header}, where the '
        f"name of the text is one of {', '.join(TEXT_KEYS)}"
    )


def _row(row: list[str] | RequestError, columns: list[int], width: int, header: bool) -> Record:
    if isinstance(row, RequestError):
        raise row
    if len(row) != width:
        raise (
            BadRequest(f"the row has {len(row)} columns, the header {width}")
            if header
            else _no_texts(len(row), width)
        )
    texts = []
    for column in columns:
        try:
            texts.append(read_text(row[column].encode("utf-8").decode("utf-8"), "the text"))
        except UnicodeEncodeError:
            raise BadRequest("the row has bytes that are not of its charset") from None
    return Record([texts[0] if len(texts) == 1 else (texts[0], texts[1])])


def _plain(stream: BinaryIO, charset: str, reader: Reader) -> Payload:
    """Read one text or, of a batch transform job, a text a line."""
    if reader.batch:
        records = (_attempt(_plain_line, line, charset) for line in stream)
        return Payload(records, LINES, in_place=True)
    return Payload(
        iter([Record([read_text(read_string(stream.read(), charset), "the body")])]), JSON
    )


def _plain_line(line: bytes, charset: str) -> Record:
    return Record([read_text(read_string(line, charset).rstrip("\r\n"), "the line")])


def _npy(stream: BinaryIO, charset: str, reader: Reader) -> Payload:
    strings = _strings(stream.read(), charset)
    where = f"of {len(strings)}"
    texts = [
        read_text(string, f"text {number} {where}") for number, string in enumerate(strings, 1)
    ]
    return Payload(iter([Record([text]) for text in texts]), NPY)


def _strings(body: bytes, charset: str) -> list[str]:
    """Return the strings of an npy file. No other type is read, so nothing is unpickled."""
    array = read_npy(body)
    dtype, data = array.dtype, array.data
    if len(array.shape) > 1 or dtype.kind not in "US":
        raise BadRequest(
            "the array must hold strings in one dimension, as "
            f'numpy.array(["a text", "another"]) does; it is {dtype} of shape {array.shape}'
        )
    array.check_size()
    items = [data[start : start + dtype.itemsize] for start in range(0, len(data), dtype.itemsize)]
    if dtype.kind == "S":
        return [read_string(item.rstrip(b"\0"), charset) for item in items]
    order = "be" if dtype.str.startswith(">") else "le"
    try:
        return [item.decode(f"utf-32-{order}", "surrogatepass").rstrip("\0") for item in items]
    except UnicodeDecodeError:
        raise BadRequest("the array holds what is no character of Unicode") from None


DECODERS: dict[str, Callable[[BinaryIO, str, Reader], Payload]] = {
    JSON: _json,
    **dict.fromkeys(LINE_TYPES, _lines),
    CSV: _csv,
    "text/plain": _plain,
    NPY: _npy,
}


def _attempt(read: Callable[..., Record], *arguments: object) -> Record | RequestError:
    try:
        return read(*arguments)
    except RequestError as error:
        return error


def read_string(body: bytes, charset: str) -> str:
    """Return the text of a body.

    Raises:
        BadRequest: it is not of that character set.
    """
    try:
        return body.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the body is not {charset}: byte 0x{body[error.start]:02x} at {error.start}. "
            "Send UTF-8, or name the encoding as charset in Content-Type"
        ) from None
