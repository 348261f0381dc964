"""A file in pieces, as batch transform sends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MiniBatch", "RecordError", "cut"]

PART = 2**20

Body = bytes | Iterable[bytes]


class RecordError(Exception):
    """The file cannot be cut: a record is larger than a mini-batch may be."""


@dataclass(frozen=True)
class MiniBatch:
    """What one invocation sends."""

    place: str
    """Where it is in the file, in words."""
    records: int
    body: Callable[[], Body]
    """Return it: bytes, or parts of a file that is streamed."""


def cut(path: Path, by_lines: bool, multi_record: bool, limit: int) -> Iterator[MiniBatch]:
    """Yield the mini-batches of a file, in order. A line keeps its line break.

    Args:
        by_lines: whether a record is a line; else the file is one record.
        multi_record: whether a mini-batch holds as many records as fit, or one.
        limit: bytes of a mini-batch; with 0 it is streamed, and has no end but the file's.

    Raises:
        RecordError
    """
    if not limit and (multi_record or not by_lines):
        yield MiniBatch("the whole file", _lines(path) if by_lines else 1, lambda: _parts(path))
    elif by_lines:
        yield from _by_lines(path, multi_record, limit)
    else:
        size = path.stat().st_size
        if size > limit:
            raise RecordError(
                f"it has {size} bytes, which is more than the payload of {limit // 2**20} MB; "
                "split it, or choose a larger payload (0: it is streamed)"
            )
        yield MiniBatch("the whole file", 1, path.read_bytes)


def _by_lines(path: Path, multi_record: bool, limit: int) -> Iterator[MiniBatch]:
    lines: list[bytes] = []
    size, first = 0, 1
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if limit and len(line) > limit:
                raise RecordError(
                    f"line {number} has {len(line)} bytes, which is more than the payload of "
                    f"{limit // 2**20} MB"
                )
            if lines and (not multi_record or size + len(line) > limit):
                yield _batch(lines, first)
                lines, size, first = [], 0, number
            lines.append(line)
            size += len(line)
    if lines:
        yield _batch(lines, first)


def _batch(lines: list[bytes], first: int) -> MiniBatch:
    last = first + len(lines) - 1
    body = b"".join(lines)
    place = f"line {first}" if first == last else f"lines {first} to {last}"
    return MiniBatch(place, len(lines), lambda: body)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART):
            yield part


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
