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
from typing import BinaryIO

import numpy as np
from werkzeug.http import parse_options_header

from serve.errors import BadRequest, RequestError, UnsupportedMediaType
from serve.records import PAIR_KEY, SHAPES, TEXT_KEYS, Record, read_record, read_text
from textmodel.tokenizer import Text

__all__ = ["CSV", "DECODERS", "JSON", "LINES", "NPY", "Payload", "decode"]

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


def decode(stream: BinaryIO, content_type: str | None, batch: bool = False) -> Payload:
    """Read a request body; without a content type it is taken for JSON.

    Args:
        stream: the body.
        batch: whether it may be cut out of a file, in lines, by a batch transform job.

    Raises:
        UnsupportedMediaType: the type is not in DECODERS.
        BadRequest: the body is not what its type promises.
    """
    media_type, options = parse_options_header(content_type or JSON)
    decoder = DECODERS.get(media_type.lower())
    if decoder is None:
        raise UnsupportedMediaType(
            f"Content-Type {media_type!r} is not read here; send {', '.join(DECODERS)}"
        )
    return decoder(stream, _charset(options.get("charset", "utf-8")), batch)


def _charset(name: str) -> str:
    """Return Python's name of a character set whose lines end like those of ASCII."""
    try:
        found = codecs.lookup(name).name
        if "\n".encode(found) != b"\n":
            raise LookupError
    except (LookupError, ValueError):
        raise BadRequest(f"charset {name!r} is not read here; send utf-8") from None
    return found


def _json(stream: BinaryIO, charset: str, batch: bool) -> Payload:
    text = _string(stream.read(), charset)
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadRequest(f"the body is nested too deeply. Send {SHAPES}") from None
    except ValueError as error:
        if batch and "Extra data" in str(error):  # lines of JSON that are not called so
            return _lines(io.BytesIO(text.encode()), "utf-8", batch)
        raise BadRequest(f"the body is not JSON: {error}. Send {SHAPES}") from None
    record = read_record(value)
    return Payload(iter([Record([text], False, record.parameters) for text in record.texts]), JSON)


def _lines(stream: BinaryIO, charset: str, batch: bool) -> Payload:
    return Payload((_attempt(_line, line, charset) for line in stream), LINES, in_place=True)


def _line(line: bytes, charset: str) -> Record:
    text = _string(line, charset).strip()
    if not text:
        raise BadRequest("the line is empty")
    try:
        return read_record(json.loads(text))
    except RecursionError:
        raise BadRequest(f"the line is nested too deeply. Send {SHAPES}") from None
    except ValueError as error:
        raise BadRequest(f"the line is not JSON: {error}. Send {SHAPES}") from None


def _csv(stream: BinaryIO, charset: str, batch: bool) -> Payload:
    # Bytes that are no characters become lone surrogates, which only their own row suffers from.
    encoding = "utf-8-sig" if charset == "utf-8" else charset
    text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
    rows = csv.reader(text)
    first = next(rows, None)
    if first is None:
        raise BadRequest("the body is empty; send a text a row, quoted if it has commas in it")
    names = [name.strip().lower() for name in first]
    columns = [names.index(key) for key in TEXT_KEYS if key in names][:1]
    if columns and PAIR_KEY in names:
        columns.append(names.index(PAIR_KEY))
    if columns:
        records: Records = (_attempt(_row, row, columns, len(names)) for row in rows)
    else:
        every = _chain(first, rows)
        records = (_attempt(_row, row, list(range(len(first))), len(first)) for row in every)
    return Payload(records, CSV, in_place=True, header=bool(columns))


def _chain(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _row(row: list[str], columns: list[int], width: int) -> Record:
    if len(columns) > 2:
        raise BadRequest(
            f"the row has {width} columns; send the text alone, quoted if it has commas in it, or "
            f"a header with one of {', '.join(TEXT_KEYS)}"
        )
    if len(row) != width:
        raise BadRequest(f"the row has {len(row)} columns, the first one {width}")
    texts = []
    for column in columns:
        try:
            texts.append(read_text(row[column].encode("utf-8").decode("utf-8"), "the text"))
        except UnicodeEncodeError:
            raise BadRequest("the row has bytes that are not of its charset") from None
    return Record([texts[0] if len(texts) == 1 else (texts[0], texts[1])])


def _plain(stream: BinaryIO, charset: str, batch: bool) -> Payload:
    """Read one text or, of a batch transform job, a text a line."""
    if batch:
        records = (_attempt(_plain_line, line, charset) for line in stream)
        return Payload(records, LINES, in_place=True)
    return Payload(iter([Record([read_text(_string(stream.read(), charset), "the body")])]), JSON)


def _plain_line(line: bytes, charset: str) -> Record:
    return Record([read_text(_string(line, charset).rstrip("\r\n"), "the line")])


def _npy(stream: BinaryIO, charset: str, batch: bool) -> Payload:
    try:
        array = np.load(io.BytesIO(stream.read()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadRequest(f"the body is no npy file without pickle: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim > 1 or array.dtype.kind not in "US":
        kind = f"{array.dtype} of shape {array.shape}" if hasattr(array, "dtype") else "an archive"
        raise BadRequest(f"the array must hold strings, (texts,); it is {kind}")
    texts: list[Text] = []
    for number, item in enumerate(array.reshape(-1).tolist()):
        text = _string(item, charset) if isinstance(item, bytes) else item
        texts.append(read_text(text, f"text {number}"))
    return Payload(iter([Record([text]) for text in texts]), NPY)


DECODERS: dict[str, Callable[[BinaryIO, str, bool], Payload]] = {
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


def _string(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the body is not {charset}: byte 0x{body[error.start]:02x} at {error.start}. "
            "Send UTF-8, or name the encoding as charset in Content-Type"
        ) from None
