"""Which columns of a channel hold the texts and the labels, and what their values mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from textmodel.tokenizer import Text
from train.errors import UserError
from train.hyperparameters import Hyperparameters
from train.readers import listing

__all__ = ["LABEL_NAMES", "TEXT_NAMES", "Columns"]

TEXT_NAMES = (
    "text", "texts", "sentence", "review_body", "review_text", "review", "transcription", "message",
    "tweet", "content", "document", "body", "inputs", "utterance", "comment",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "target", "category", "class", "sentiment", "intent", "topic",
    "star_rating", "rating", "medical_specialty", "y",
)  # fmt: skip


class Columns:
    """Turns the rows of one channel into texts and labels."""

    def __init__(self, settings: Hyperparameters) -> None:
        self._settings = settings
        self._separator = settings.label_separator
        self._text: Sequence[str] = ()
        self._pair: Sequence[str] = ()
        self._label = ""
        self.multi_label: bool | None = True if self._separator else None
        """Whether a row has a list of labels; None until there was one with any."""

    def choose(self, columns: Sequence[str], where: str) -> list[str]:
        """Find the columns of a file: those of the text, of the other text of a pair, the label.

        Raises:
            UserError: there are none of the names set, or of the usual ones, or too many.
        """
        settings = self._settings
        self._text = _named(columns, "text_column", settings.text_column, where)
        self._pair = _named(columns, "text_pair_column", settings.text_pair_column, where)
        label = settings.label_column
        labels = [] if label is None else [_existing(columns, "label_column", label, where)]
        taken = {*self._text, *self._pair, *labels}
        free = [column for column in columns if column not in taken]
        self._text = self._text or [_usual(columns, free, "text_column", TEXT_NAMES, where)]
        labels = labels or [_usual(columns, free, "label_column", LABEL_NAMES, where)]
        roles = {"text_column": self._text, "text_pair_column": self._pair, "label_column": labels}
        _check_distinct(roles)
        self._label = labels[0]
        return [*self._text, *self._pair, self._label]

    def text(self, values: Sequence[Any], where: str) -> Text:
        """Return the text of a row, or the two of a pair; empty where one is missing.

        Raises:
            UserError: a value is no string.
        """
        first = self._join(self._text, values, where)
        if not self._pair:
            return first
        second = self._join(self._pair, values[len(self._text) :], where)
        return (first, second) if first and second else ""

    def labels(self, values: Sequence[Any], where: str) -> tuple[str, ...] | None:
        """Return the labels of a row, in order and each once; None where they are missing.

        Raises:
            UserError: a value is no label, or there are lists in some rows and none in others.
        """
        value = values[-1]
        if value is None or value != value:  # Parquet's other way to say that there is no number
            return None
        if self._separator and isinstance(value, str):
            value = value.split(self._separator)
        several = isinstance(value, list)
        found = [self._one(item, where) for item in (value if several else [value])]
        labels = tuple(sorted({label for label in found if label}))
        if not several and not labels:
            return None
        if self.multi_label is None:
            self.multi_label = several
        elif several != self.multi_label and not self._separator:
            raise UserError(
                f"{where}: the label in {self._label!r} is {_show(value)}, "
                f"{'a list' if several else 'no list'}, unlike those of earlier rows; "
                "write a list in every row, or in none"
            )
        return labels

    def _join(self, columns: Sequence[str], values: Sequence[Any], where: str) -> str:
        parts = []
        for column, value in zip(columns, values, strict=False):
            if value is None:
                continue
            if not isinstance(value, str):
                raise UserError(f"{where}: the text in {column!r} is {_show(value)}, not a string")
            if value.strip():
                parts.append(_printable(value))
        return " ".join(parts)

    def _one(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            return _printable(value.strip())
        if isinstance(value, (bool, int, float)):
            return json.dumps(value)
        if isinstance(value, (Decimal, date)):
            return str(value)
        raise UserError(
            f"{where}: the label in {self._label!r} is {_show(value)}; "
            "it must be one string or number, or a list of them"
        )


def _named(columns: Sequence[str], option: str, value: str | None, where: str) -> list[str]:
    """Return the columns that a hyperparameter names: one, or several with commas between."""
    if value is None or value in columns:
        return [] if value is None else [value]
    names = [name.strip() for name in value.split(",")]
    return [_existing(columns, option, name, where) for name in names if name]


def _existing(columns: Sequence[str], option: str, name: str, where: str) -> str:
    if name not in columns:
        raise UserError(
            f"{where}: there is no column {name!r} ({option}); "
            f"the columns are {listing(map(repr, columns))}"
        )
    return name


def _usual(
    columns: Sequence[str], free: Sequence[str], option: str, usual: Sequence[str], where: str
) -> str:
    found = [column for column in free if column.lower() in usual]
    found = found or [column for column in columns if column.lower() in usual]
    if len(found) == 1:
        return found[0]
    problem = f"{' and '.join(map(repr, found))} could all be" if found else "none is known to be"
    raise UserError(
        f"{where}: {problem} the {option.replace('_', ' ')}; "
        f"the columns are {listing(map(repr, columns))}. "
        f"Set the hyperparameter {option} to one of them; the first line of a CSV file must name "
        "the columns"
    )


def _check_distinct(roles: Mapping[str, Sequence[str]]) -> None:
    role_of: dict[str, str] = {}
    for role, columns in roles.items():
        for column in columns:
            if column in role_of:
                raise UserError(
                    f"{role_of[column]} and {role} are both {column!r}; they must differ"
                )
            role_of[column] = role


def _show(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:40]


def _printable(text: str) -> str:
    """Replace halves of a surrogate pair: JSON can hold them where a text was cut, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
