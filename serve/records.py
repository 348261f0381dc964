"""What a request asks for, whatever format it came in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.errors import BadRequest
from serve.parameters import NAMES
from textmodel.tokenizer import Text

__all__ = ["PAIR_KEY", "SHAPES", "TEXT_KEYS", "Record", "read_record", "read_text"]

TEXT_KEYS = ("inputs", "text", "instances", "source", "features", "review_body")
"""The names under which a text, or a list of them, is found; `inputs` is Hugging Face's."""
PAIR_KEY = "text_pair"
SHAPES = (
    '{"inputs": "a text"}, {"inputs": ["a text", "another"]}, "a text", ["a text"] or, of a pair, '
    '{"inputs": {"text": "a text", "text_pair": "its other half"}}'
)


@dataclass(frozen=True)
class Record:
    """One or many texts that are answered together, and how to answer."""

    texts: list[Text]
    many: bool = False
    """Whether the client sent a list, and gets one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_record(value: Any) -> Record:
    """Read a JSON value in one of the SHAPES.

    Raises:
        BadRequest: it is in none of them.
    """
    parameters: Any = {}
    if isinstance(value, dict):
        parameters = value.get("parameters")
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, dict):
            raise BadRequest('"parameters" must be an object like {"top_k": 2}')
        if misplaced := NAMES & value.keys():
            name = min(misplaced)
            raise BadRequest(
                f'"{name}" stands beside the text; a parameter is read within "parameters": '
                f'{{"inputs": "a text", "parameters": {{"{name}": …}}}}'
            )
        if PAIR_KEY not in value:
            value = _field(value, "the object")
    if isinstance(value, list):
        where = f"of {len(value)}"
        texts = [_text(item, f"text {number} {where}") for number, item in enumerate(value, 1)]
        return Record(texts, True, parameters)
    return Record([_text(value, "the text")], False, parameters)


def read_text(value: Any, where: str) -> str:
    """Return a text that has something in it.

    Raises:
        BadRequest: it has not, or is no text.
    """
    if not isinstance(value, str):
        raise BadRequest(f"{where} is {_shown(value)}, not a string. Send {SHAPES}")
    if not value.strip():
        raise BadRequest(f"{where} is empty; there is nothing to predict from")
    # JSON can hold half a surrogate pair, where a text was cut; no tokenizer takes it.
    return value.encode("utf-8", "replace").decode("utf-8")


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):  # may be nested too deeply to be written
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)[:40]


def _text(item: Any, where: str) -> Text:
    if not isinstance(item, dict):
        return read_text(item, where)
    if PAIR_KEY not in item:
        return read_text(_field(item, where), where)
    if "text" not in item or set(item) & set(TEXT_KEYS) != {"text"}:
        raise BadRequest(f'{where} has "text_pair" without "text" beside it. Send {SHAPES}')
    other = read_text(item[PAIR_KEY], f"the other half of {where}")
    return read_text(item["text"], where), other


def _field(value: Mapping[str, Any], where: str) -> Any:
    found = [key for key in TEXT_KEYS if key in value]
    if len(found) != 1:
        keys = ", ".join(f"{key!r:.40}" for key in [*value][:8]) or "none"
        raise BadRequest(
            f"{where} must have exactly one of the keys {', '.join(TEXT_KEYS)}; it has {keys}. "
            f"Send {SHAPES}"
        )
    return value[found[0]]
