"""A body that the model answers, and others like it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_test.programs import ROOT

__all__ = ["DEFAULT", "MESSAGES", "TYPES", "Sample", "alike", "read"]

MESSAGES = ROOT / "local_test/data/messages.csv"
TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".txt": "text/plain",
}
"""The content type of a file that is given without one, by ending."""

TOLERANCE = 0.01
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class Sample:
    """The body of a request, and its type."""

    body: bytes
    content_type: str
    given: bool = True
    """Whether the user gave it, so that the model must answer it."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": self.content_type}

    @property
    def is_json(self) -> bool:
        return self._type == "application/json"

    @property
    def _type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    def with_text(self, text: str) -> Sample | None:
        """Return the sample with another text in place of its longest; None without a text."""
        if not self.is_json:
            return None
        value = json.loads(self.body)
        longest = max(_texts(value), key=len, default=None)
        if longest is None:
            return None
        body = json.dumps(_replaced(value, longest, text), ensure_ascii=False).encode()
        return Sample(body, self.content_type)

    @property
    def row(self) -> bytes | None:
        """The sample's first row of CSV, or its longest text as such a row; None without a text."""
        if self._type == "text/csv":
            return self.body.strip().splitlines()[0]
        longest = max(_texts(json.loads(self.body)), key=len, default="") if self.is_json else ""
        written = io.StringIO()
        csv.writer(written, lineterminator="").writerow([longest])
        return written.getvalue().encode() if longest else None

    def variants(self, count: int) -> list[Sample]:
        """Return samples with other texts, or the lines of this one; fewer if there are none."""
        if self.is_json:
            with MESSAGES.open(encoding="utf-8", newline="") as file:
                texts = [row["text"] for row in csv.DictReader(file)][:count]
            found = [self.with_text(text) for text in texts]
            return [sample for sample in found if sample]
        lines = list(dict.fromkeys(line for line in self.body.splitlines() if line.strip()))
        return [Sample(line + b"\n", self.content_type) for line in lines[:count]]

    def padded(self, size: int) -> bytes:
        """Return a body of `size` bytes that means the same: blanks behind JSON; else repeated."""
        if self.is_json:
            return self.body.ljust(size)
        lines = self.body.rstrip(b"\n") + b"\n"
        return lines * (size // len(lines))


DEFAULT = Sample(b'{"inputs": "Flood in the valley"}', "application/json", given=False)


def alike(one: bytes, other: bytes) -> bool:
    """Whether two answers are the same but for their numbers' last digits."""
    ours, theirs = (NUMBER.split(text.decode("utf-8", "replace")) for text in (one, other))
    return len(ours) == len(theirs) and all(
        math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        if odd % 2
        else a == b
        for odd, (a, b) in enumerate(zip(ours, theirs, strict=True))
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return new if value == old else value
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return value


def read(path: Path, content_type: str) -> Sample:
    """Return the sample in a file.

    Raises:
        ValueError: it is empty, or called JSON and is none.
    """
    sample = Sample(path.read_bytes(), content_type)
    if not sample.body.strip():
        raise ValueError(f"the sample {path} is empty")
    if sample.is_json:
        json.loads(sample.body)
    return sample
