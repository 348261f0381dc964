"""Requests of all kinds, with what their answers have to be."""

from __future__ import annotations

import csv
import http.client
import io
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench.serving.reference import Reference

__all__ = ["Mix"]

TOLERANCE = 0.03
"""In a score: a text among others, padded, is rounded differently in bf16."""
ANSWER_LIMIT_S = 120
ROUTE = "/invocations"
JSON, LINES, CSV, PLAIN = "application/json", "application/jsonlines", "text/csv", "text/plain"

Check = Callable[[bytes], str | None]
"""An answer's body to what is wrong with it."""


@dataclass(frozen=True)
class _Request:
    body: bytes
    check: Check
    content_type: str = JSON
    status: int = 200
    route: str = ROUTE
    headers: dict[str, str] = field(default_factory=dict)


class Mix:
    """Makes requests of short and long texts, sends them and judges the answers."""

    def __init__(self, short: Sequence[str], long: Sequence[str], expected: Reference) -> None:
        """`expected` is of the short texts and the long ones behind them."""
        self._short, self._long = short, long
        self._probabilities = {
            text: dict(zip(expected.labels, map(float, row), strict=True))
            for text, row in zip([*short, *long], expected.probabilities, strict=True)
        }
        self._makers: tuple[tuple[int, str, Callable[[Random], _Request]], ...] = (
            # weight, kind, maker
            (40, "one short text", lambda r: self._json(self._pick(r, 1), one=True)),
            (10, "many short texts", lambda r: self._json(self._pick(r, r.randint(2, 32)))),
            (4, "one long text", lambda r: self._json(self._pick(r, 1, long=True), one=True)),
            (1, "long and short texts", self._both),
            (5, "all scores", self._all_scores),
            (3, "JSON Lines", lambda r: self._lines(self._pick(r, r.randint(1, 200)))),
            (2, "JSON Lines with bad ones", self._bad_lines),
            (3, "CSV", self._csv),
            (3, "plain text", self._plain),
            (8, "to be refused", self._refused),
        )
        self._gone = ("gone within the body", "gone before the answer")

    def send(self, port: int, generator: Random) -> tuple[str, str | None]:
        """Send one request; return its kind, and what is wrong with the answer, if anything."""
        if generator.random() < 0.05:
            kind = generator.choice(self._gone)
            request = self._lines(self._pick(generator, generator.randint(1, 50)))
            _go_away(port, request, kind == self._gone[0])
            return kind, None
        weights = [weight for weight, _, _ in self._makers]
        _, kind, make = generator.choices(self._makers, weights)[0]
        return kind, _ask(port, make(generator))

    def _pick(self, generator: Random, count: int, long: bool = False) -> list[str]:
        return generator.choices(self._long if long else self._short, k=count)

    def _json(self, texts: list[str], one: bool = False) -> _Request:
        value: Any = {"inputs": texts[0] if one else texts}
        return _Request(_dump(value), lambda body: self._compare(json.loads(body), texts))

    def _both(self, generator: Random) -> _Request:
        texts = self._pick(generator, 6) + self._pick(generator, 2, long=True)
        generator.shuffle(texts)
        return self._json(texts)

    def _all_scores(self, generator: Random) -> _Request:
        texts = self._pick(generator, 3)

        def check(body: bytes) -> str | None:
            answers = json.loads(body)
            for position in range(len(self._probabilities[texts[0]])):
                one = [answer[position] for answer in answers]
                if fault := self._compare(one, texts):
                    return fault
            return None

        return _Request(_dump({"inputs": texts, "parameters": {"top_k": None}}), check)

    def _lines(self, texts: list[str]) -> _Request:
        body = b"\n".join(_dump({"inputs": text}) for text in texts)
        return _Request(body, lambda answer: self._compare(_objects(answer), texts), LINES)

    def _bad_lines(self, generator: Random) -> _Request:
        texts = self._pick(generator, 8)
        bad = generator.randrange(len(texts))
        lines = [_dump({"inputs": text}) for text in texts]
        lines[bad] = generator.choice([b"{", b'{"inputs": 3}', b'{"inputs": ""}', b'"\xff"'])

        def check(answer: bytes) -> str | None:
            objects = _objects(answer)
            if len(objects) != len(texts) or "error" not in objects[bad]:
                return f"no error in the place of the bad line: {answer[:200]!r}"
            del objects[bad]
            return self._compare(objects, texts[:bad] + texts[bad + 1 :])

        return _Request(b"\n".join(lines), check, LINES)

    def _csv(self, generator: Random) -> _Request:
        texts = self._pick(generator, generator.randint(1, 20))
        buffer = io.StringIO()
        csv.writer(buffer).writerows([["inputs"], *([text] for text in texts)])

        def check(answer: bytes) -> str | None:
            rows = csv.DictReader(io.StringIO(answer.decode()))
            found = [{"label": row["label"], "score": float(row["score"])} for row in rows]
            return self._compare(found, texts)

        return _Request(buffer.getvalue().encode(), check, CSV)

    def _plain(self, generator: Random) -> _Request:
        texts = self._pick(generator, 1)
        return _Request(
            texts[0].encode(), lambda body: self._compare(json.loads(body), texts), PLAIN
        )

    def _refused(self, generator: Random) -> _Request:
        fine = _dump({"inputs": "a text"})
        return generator.choice(
            [
                _Request(b'{"inputs": ', _is_error, status=400),
                _Request(b"\xff\xfe", _is_error, status=400),
                _Request(_dump({"inputs": ""}), _is_error, status=400),
                _Request(_dump({"inputs": ["a text", 3]}), _is_error, status=400),
                _Request(_dump({"inputs": "a", "parameters": {"x": 1}}), _is_error, status=400),
                _Request(fine, _is_error, "image/png", status=415),
                _Request(fine, _is_error, status=406, headers={"Accept": "image/png"}),
                _Request(fine, _is_error, status=404, route="/nowhere"),
            ]
        )

    def _compare(self, answers: Any, texts: Sequence[str]) -> str | None:
        if not isinstance(answers, list) or len(answers) != len(texts):
            return f"not one answer for each of {len(texts)} texts: {str(answers)[:200]}"
        for answer, text in zip(answers, texts, strict=True):
            wanted = self._probabilities[text].get(answer["label"], -1.0)
            if abs(answer["score"] - wanted) > TOLERANCE:
                return f"{answer} for a text whose score is {wanted:.3f}"
        return None


def _ask(port: int, request: _Request) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    headers = {"Content-Type": request.content_type} | request.headers
    try:
        connection.request("POST", request.route, request.body, headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"
    finally:
        connection.close()
    if answer.status != request.status:
        return f"status {answer.status} instead of {request.status}: {body[:200]!r}"
    try:
        return request.check(body)
    except (ValueError, LookupError, TypeError) as error:
        return f"{error!r} in the answer {body[:200]!r}"


def _go_away(port: int, request: _Request, within_body: bool) -> None:
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {request.content_type}\r\n"
        f"Content-Length: {len(request.body)}\r\n\r\n"
    )
    body = request.body[: len(request.body) // 2] if within_body else request.body
    with socket.create_connection(("127.0.0.1", port), ANSWER_LIMIT_S) as connection:
        connection.sendall(head.encode() + body)


def _is_error(body: bytes) -> str | None:
    error = json.loads(body)["error"]
    return None if error["code"] and error["message"] else f"no code or message: {body[:200]!r}"


def _objects(lines: bytes) -> list[Any]:
    return [json.loads(line) for line in lines.splitlines()]


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
