"""The rows of a channel, out of files or a pipe, each with the place where it stands.

CSV, TSV and JSON Lines are read with the standard library, because a message about a broken file
must name the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from train.errors import UserError
from train.job import Channel
from train.pipes import open_pipe

__all__ = ["ENDINGS", "Choose", "Row", "listing", "read_rows"]

Row = tuple[str, Sequence[Any]]
"""Where a row stands (`train.csv line 7`), and the values of the columns chosen."""

Choose = Callable[[Sequence[str], str], Sequence[str]]
"""Given the columns of a file and where they were found, returns those to read."""

_CSV, _TSV, _JSON_LINES, _PARQUET = "CSV", "TSV", "JSON Lines", "Parquet"
_FORMATS = {
    ".csv": _CSV,
    ".tsv": _TSV,
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": _JSON_LINES,
    ".jsonlines": _JSON_LINES,
    ".parquet": _PARQUET,
}
_CONTENT_TYPES = {
    "text/csv": _CSV,
    "text/tab-separated-values": _TSV,
    "application/jsonlines": _JSON_LINES,
    "application/x-jsonlines": _JSON_LINES,
    "application/jsonl": _JSON_LINES,
    "application/x-ndjson": _JSON_LINES,
    "application/x-parquet": _PARQUET,
    "application/vnd.apache.parquet": _PARQUET,
}
_DELIMITERS = {_CSV: ",", _TSV: "\t"}
_GZIP = b"\x1f\x8b"

ENDINGS = tuple(_FORMATS)

BATCH_ROWS = 1024
"""Rows of a Parquet file that are in memory at a time."""

_JSON_FORM = (
    'each line must be an object of its own like {"text": …, "label": …}, '
    "without an array around them"
)


def read_rows(channel: Channel, encoding: str, choose: Choose) -> Iterator[Row]:
    """Yield the rows of all files of a channel, or of the first epoch of its pipe.

    Raises:
        UserError: a file or the pipe cannot be read as what it should be.
    """
    if channel.piped:
        yield from _pipe_rows(channel, encoding, choose)
        return
    for path in _files(channel.path):
        name = path.relative_to(channel.path).as_posix()
        kind = _kind(path, name, channel.content_type)
        if kind == _PARQUET:
            yield from _parquet_rows(path, name, choose)
        else:
            with path.open("rb") as file:
                yield from _text_rows(kind, _lines(file, name, encoding), name, choose)


def listing(names: Iterable[str]) -> str:
    """Join what a message can show of any number of names of any length."""
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(shown[:20] + ["…"] * (len(shown) > 20))


def _files(directory: Path) -> list[Path]:
    """Return the files below, without those that Spark, Delta and editors mark as their own."""
    return [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(directory).parts)
    ]


def _kind(path: Path, name: str, content_type: str | None) -> str:
    """Return the format of a file: by its ending, else as the channel declares."""
    zipped = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix if zipped else path.suffix
    kind = _FORMATS.get(ending.lower()) or _CONTENT_TYPES.get(_media_type(content_type))
    if kind is None:
        raise UserError(
            f"{name}: files must end in {', '.join(_FORMATS)} (gzipped: .csv.gz, …), or the "
            f"channel must declare a ContentType of {', '.join(_CONTENT_TYPES)}"
        )
    if zipped and kind == _PARQUET:
        raise UserError(f"{name}: a gzipped Parquet file is not read; unpack it, it is compact")
    return kind


def _pipe_rows(channel: Channel, encoding: str, choose: Choose) -> Iterator[Row]:
    kind = _CONTENT_TYPES.get(_media_type(channel.content_type))
    if channel.record_io:
        raise UserError(
            f"the channel {channel.name} has RecordWrapperType RecordIO, which is not read here; "
            "set it to None"
        )
    if kind == _PARQUET:
        raise UserError(
            f"the channel {channel.name}: Parquet cannot be read from a pipe; "
            "set its input mode to File or FastFile"
        )
    fifo = channel.fifo(epoch=0)
    with open_pipe(fifo) as file:
        lines = _lines(file, fifo.name, encoding)
        if kind is None:
            seen = []
            for line in lines:
                seen.append(line)
                if line.strip():
                    kind = _JSON_LINES if line.lstrip().startswith(("{", "[")) else _CSV
                    break
            lines = chain(seen, lines)
        yield from _text_rows(kind or _CSV, lines, fifo.name, choose, joined=True)


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _lines(file: io.BufferedReader, name: str, encoding: str) -> Iterator[str]:
    """Yield the lines with their ends, so that a quoted field keeps its line breaks."""
    try:
        # utf-8-sig also reads plain UTF-8, and drops the mark that spreadsheets put in front.
        utf8 = codecs.lookup(encoding).name == "utf-8"
        text = io.TextIOWrapper(
            _unzipped(file, name), "utf-8-sig" if utf8 else encoding, newline=""
        )
    except (LookupError, ValueError):
        raise UserError(f"hyperparameter encoding={encoding!r} is no encoding; try utf-8") from None
    number = 0
    try:
        with text:
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise UserError(
                        f"{name} line {number}: there are NUL bytes. Is the file UTF-16 or not a "
                        "text? Save it as UTF-8, or set the hyperparameter encoding"
                    )
                yield line
    except UnicodeError as error:
        raise UserError(_explain_encoding(name, number + 1, encoding, error)) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{name} line {number + 1}: the gzip data is broken from here on: {error}"
        ) from None


def _unzipped(file: io.BufferedReader, name: str) -> Any:
    """Return the file, decompressed if it is gzipped; a pipe's name does not tell."""
    head = file.peek(2)[:2]
    if head and _GZIP.startswith(head):
        return gzip.GzipFile(fileobj=file)
    if head and name.lower().endswith(".gz"):
        raise UserError(f"{name}: not gzip data; is it unpacked already? Then drop the .gz")
    return file


def _text_rows(
    kind: str, lines: Iterator[str], name: str, choose: Choose, joined: bool = False
) -> Iterator[Row]:
    if kind == _JSON_LINES:
        return _json_rows(lines, name, choose)
    return _separated_rows(lines, name, choose, _DELIMITERS[kind], joined)


def _separated_rows(
    lines: Iterator[str], name: str, choose: Choose, delimiter: str, joined: bool
) -> Iterator[Row]:
    """Read CSV or TSV; of `joined` files, each brings its own header."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    indexes: list[int] | None = None
    line = 1  # where the row begins; it may end on a later one
    try:
        for fields in reader:
            where, line = f"{name} line {line}", reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = _header(fields, where)
                continue
            if joined and [field.strip("\ufeff ") for field in fields] == header:
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{where}: {len(fields)} fields where the first line names {len(header)} "
                    f"({listing(header)}); a text with separators or line breaks must be in quotes"
                )
            if indexes is None:
                indexes = [header.index(column) for column in choose(header, where)]
            yield where, [fields[index] for index in indexes]
    except csv.Error as error:
        raise UserError(
            f"{name} line {line}: not valid CSV: {error} (on line {reader.line_num}); "
            'a text in quotes must end with one, and quotes inside it must be doubled ("")'
        ) from None


def _header(fields: Sequence[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    _refuse_twice(names, where)
    return names


def _refuse_twice(names: Sequence[str], where: str) -> None:
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{where}: two columns are named {twice[0]!r}; rename one of them")


def _json_rows(lines: Iterator[str], name: str, choose: Choose) -> Iterator[Row]:
    columns: Sequence[str] = ()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON: {_reason(error)}; {_JSON_FORM}") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON {type(row).__name__}, not an object; {_JSON_FORM}")
        columns = columns or choose(list(row), where)
        try:
            yield where, [row[column] for column in columns]
        except KeyError as error:
            raise UserError(
                f"{where}: there is no {error.args[0]!r}, which earlier lines have; "
                f"it has {listing(row)}"
            ) from None


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def _parquet_rows(path: Path, name: str, choose: Choose) -> Iterator[Row]:
    if path.stat().st_size == 0:  # what Spark leaves of an empty partition
        return
    try:
        with parquet.ParquetFile(path, buffer_size=2**20) as file:
            if file.metadata.num_rows == 0:
                return
            _refuse_twice(file.schema_arrow.names, name)
            columns = list(choose(file.schema_arrow.names, f"{name} row 1"))
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                values = [batch.column(column).to_pylist() for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield f"{name} row {number}", row
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the machine's fault, not the file's
            raise
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{name}: not a Parquet file, or a broken one: {reason}") from None


def _explain_encoding(name: str, line: int, encoding: str, error: UnicodeError) -> str:
    problem = f"{name}: not {encoding}: {error}"
    if isinstance(error, UnicodeDecodeError):
        # The line that could not be completed, and those that end before the byte in its block.
        before = error.object[: error.start].decode(error.encoding, "replace")
        line += len(re.findall("\r\n|\r|\n", before))
        problem = f"{name} line {line}: byte 0x{error.object[error.start]:02x} is not {encoding}"
    return (
        f"{problem}. Save the file as UTF-8, or set the hyperparameter encoding "
        "(utf-8, latin-1, cp1252, utf-16, …)"
    )
