"""Labelled texts out of the job's channels."""

from __future__ import annotations

import codecs
import csv
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmodel.tokenizer import Text
from train.errors import UserError
from train.hyperparameters import Hyperparameters
from train.job import Job
from train.world import World

__all__ = ["Dataset", "Splits", "read_splits"]

log = logging.getLogger(__name__)

# The names of each channel, the usual one first.
TRAIN = ("train", "training")
HELD_OUT = {"validation": ("validation", "eval"), "test": ("test", "testing")}

TEXT_NAMES = (
    "text", "texts", "sentence", "review_body", "review_text", "review", "transcription", "message",
    "tweet", "content", "document", "body", "inputs", "utterance", "comment",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "target", "category", "class", "sentiment", "intent", "topic",
    "star_rating", "rating", "medical_specialty", "y",
)  # fmt: skip

_CSV = (".csv",)
_JSON_LINES = (".jsonl", ".ndjson", ".json", ".jsonlines")
_CONTENT_TYPES = {
    "text/csv": _CSV[0],
    "application/jsonlines": _JSON_LINES[0],
    "application/x-jsonlines": _JSON_LINES[0],
    "application/x-ndjson": _JSON_LINES[0],
}

_JSON_FORM = (
    'each line must be an object of its own like {"text": …, "label": …}, '
    "without an array around them"
)

Row = tuple[str, dict[str, Any]]
"""Where a row stands (`train.csv line 7`), and its fields by column."""


@dataclass(frozen=True)
class Dataset:
    """Texts and their labels, row by row."""

    texts: Sequence[Text]
    labels: Sequence[tuple[str, ...]]
    """One label a row, or any number of them where the task is multi-label."""
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    def label_counts(self) -> Counter[str]:
        return Counter(label for labels in self.labels for label in labels)


@dataclass(frozen=True)
class Splits:
    """What is learned from, and what the result is measured on, by name."""

    train: Dataset
    held_out: dict[str, Dataset]


def read_splits(job: Job, settings: Hyperparameters, world: World) -> Splits:
    """Read the job's channels, and hold rows out where none is there to measure on.

    Raises:
        UserError: a channel cannot be read as labelled texts, or has one class only.
    """
    directory = job.channel(*TRAIN)
    if directory is None:
        if job.is_piped(*TRAIN):
            raise UserError("the channel train has input mode Pipe; set it to File or FastFile")
        raise UserError(
            f"there is no channel named {' or '.join(TRAIN)} in {job.root}/input/data "
            f"(channels: {', '.join(job.channel_names()) or 'none'}); "
            "pass the labelled texts as channel train"
        )
    train = _read_channel(directory, job, settings)
    held_out = {
        name: _read_channel(found, job, settings)
        for name, names in HELD_OUT.items()
        if (found := job.channel(*names))
    }
    classes = train.label_counts()
    if len(classes) < 2:
        raise UserError(
            f"the channel train has one class only ({next(iter(classes))!r} in all {len(train)} "
            "rows); a classifier needs at least two"
        )
    if not held_out:
        train, held = _split(train, settings.validation_split, settings.seed)
        held_out = {"validation": held}
        log.info(
            "no validation or test channel: %d of %d rows are held out, stratified by label",
            len(held), len(held) + len(train),
        )  # fmt: skip
    for name, data in held_out.items():
        if unknown := sorted(data.label_counts().keys() - classes.keys()):
            log.warning(
                "channel %s: labels that the channel train does not have can only be wrong: %s",
                name, _listing(unknown),
            )  # fmt: skip
    return Splits(train, held_out)


def _read_channel(directory: Path, job: Job, settings: Hyperparameters) -> Dataset:
    channel = directory.name
    texts: list[Text] = []
    labels: list[tuple[str, ...]] = []
    incomplete = []
    for path in _files(directory):
        columns: tuple[str, str] | None = None
        for where, row in _rows(path, job.content_type(channel), settings.encoding):
            columns = columns or _columns(list(row), settings, where)
            text, label = _text(row, columns[0], where), _label(row, columns[1], where)
            if text.strip() and label:
                texts.append(text)
                labels.append((label,))
            else:
                incomplete.append(where)
    if incomplete:
        log.warning(
            "channel %s: %d rows without text or label are left out: %s",
            channel, len(incomplete), _listing(incomplete),
        )  # fmt: skip
    if not texts:
        raise UserError(
            f"the channel {channel} is empty: {directory} has no row with a text and a label "
            f"in {', '.join(_CSV + _JSON_LINES)} files"
        )
    log.info("channel %s: %d rows, %d labels", channel, len(texts), len(set(labels)))
    return Dataset(texts, labels)


def _files(directory: Path) -> list[Path]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in files if not path.name.startswith((".", "_")))


def _rows(path: Path, content_type: str | None, encoding: str) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind not in _CSV + _JSON_LINES:
        kind = _CONTENT_TYPES.get((content_type or "").partition(";")[0].strip().lower(), "")
    if not kind:
        raise UserError(
            f"{path.name}: files must end in {', '.join(_CSV + _JSON_LINES)}, or the channel must "
            f"declare a ContentType of {', '.join(_CONTENT_TYPES)}"
        )
    try:
        yield from (_csv_rows if kind in _CSV else _json_rows)(path, encoding)
    except UnicodeError as error:
        raise UserError(_explain_encoding(path, encoding, error)) from None


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines with their ends, so that a quoted field keeps its line breaks."""
    try:
        # utf-8-sig also reads plain UTF-8, and drops the mark that spreadsheets put in front.
        utf8 = codecs.lookup(encoding).name == "utf-8"
        file = path.open(encoding="utf-8-sig" if utf8 else encoding, newline="")
    except LookupError:
        raise UserError(f"hyperparameter encoding={encoding!r} is no encoding; try utf-8") from None
    with file:
        for number, line in enumerate(file, start=1):
            if "\0" in line:
                raise UserError(
                    f"{path.name} line {number}: there are NUL bytes. Is the file UTF-16 or not a "
                    "text? Save it as UTF-8, or set the hyperparameter encoding"
                )
            yield line


def _csv_rows(path: Path, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_lines(path, encoding), strict=True)
    header: list[str] = []
    line = 1  # where the row begins; it may end on a later one
    try:
        for fields in reader:
            where, line = f"{path.name} line {line}", reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = _header(fields, where)
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{where}: {len(fields)} fields where the first line names {len(header)} "
                    f"({_listing(header)}); a text with commas or line breaks must be in quotes"
                )
            yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path.name} line {line}: not valid CSV: {error} (on line {reader.line_num}); "
            'a text in quotes must end with one, and quotes inside it must be doubled ("")'
        ) from None


def _header(fields: Sequence[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{where}: two columns are named {twice[0]!r}; rename one of them")
    return names


def _json_rows(path: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, encoding), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not valid JSON: {error.msg} at column {error.colno}; {_JSON_FORM}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON {type(row).__name__}, not an object; {_JSON_FORM}")
        yield where, row


def _columns(columns: Sequence[str], settings: Hyperparameters, where: str) -> tuple[str, str]:
    """Return the columns of text and label."""
    text = _column(columns, "text_column", settings.text_column, TEXT_NAMES, where)
    label = _column(columns, "label_column", settings.label_column, LABEL_NAMES, where)
    if text == label:
        raise UserError(f"text_column and label_column are both {text!r}; they must differ")
    return text, label


def _column(
    columns: Sequence[str], option: str, named: str | None, usual: Sequence[str], where: str
) -> str:
    listing = f"the columns are {_listing(map(repr, columns))}"
    if named is not None:
        if named not in columns:
            raise UserError(f"{where}: there is no column {named!r} ({option}); {listing}")
        return named
    found = [column for column in columns if column.lower() in usual]
    if len(found) == 1:
        return found[0]
    problem = f"{' and '.join(map(repr, found))} could all be" if found else "none is known to be"
    raise UserError(
        f"{where}: {problem} the {option.replace('_', ' ')}; {listing}. "
        f"Set the hyperparameter {option} to one of them; the first line of a CSV file must name "
        "the columns"
    )


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = _value(row, column, where)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: the text in {column!r} is {json.dumps(value)[:40]}, not a string"
        )
    return _printable(value)


def _label(row: dict[str, Any], column: str, where: str) -> str:
    value = _value(row, column, where)
    if isinstance(value, (dict, list)):
        raise UserError(
            f"{where}: the label in {column!r} is {json.dumps(value)[:40]}; "
            "it must be one string or number"
        )
    if value is None:
        return ""
    return _printable(value.strip()) if isinstance(value, str) else json.dumps(value)


def _printable(text: str) -> str:
    """Replace halves of a surrogate pair: JSON can hold them where a text was cut, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _value(row: dict[str, Any], column: str, where: str) -> Any:
    try:
        return row[column]
    except KeyError:
        raise UserError(
            f"{where}: there is no {column!r}, which earlier lines have; it has {_listing(row)}"
        ) from None


def _split(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out about `fraction` of each label's texts; equal texts stay on one side."""
    rows_of_text: dict[Text, list[int]] = defaultdict(list)
    for row, text in enumerate(data.texts):
        rows_of_text[text].append(row)
    groups_of_label: dict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for rows in rows_of_text.values():
        groups_of_label[data.labels[rows[0]]].append(rows)
    generator = random.Random(seed)
    held: set[int] = set()
    left = Counter(data.labels)
    for groups in groups_of_label.values():
        generator.shuffle(groups)
        wanted = max(1, round(len(groups) * fraction))
        for group in groups:
            taken = Counter(data.labels[row] for row in group)
            # The last text of a label stays in training: what is not learned need not be measured.
            if wanted and all(left[label] > count for label, count in taken.items()):
                left -= taken
                held.update(group)
                wanted -= 1
    if not held:
        raise UserError(
            f"{len(data)} rows are too few to hold some out: each label has one text only. "
            "Add rows, or pass a validation channel"
        )
    kept = [row for row in range(len(data)) if row not in held]
    return _pick(data, kept), _pick(data, sorted(held))


def _pick(data: Dataset, rows: Sequence[int]) -> Dataset:
    return Dataset([data.texts[row] for row in rows], [data.labels[row] for row in rows])


def _listing(names: Iterable[str]) -> str:
    """Join what a message can show of any number of names of any length."""
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(shown[:20] + ["…"] * (len(shown) > 20))


def _explain_encoding(path: Path, encoding: str, error: UnicodeError) -> str:
    data = path.read_bytes()
    problem = f"{path.name}: not {encoding}: {error}"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as whole:  # the given error knows its place in a part only
        line = data.count(b"\n", 0, whole.start) + 1
        problem = f"{path.name} line {line}: byte 0x{data[whole.start]:02x} is not {encoding}"
    return (
        f"{problem}. Save the file as UTF-8, or set the hyperparameter encoding "
        "(utf-8, latin-1, cp1252, utf-16, …)"
    )
