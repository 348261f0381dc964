"""Bodies to texts and answers to bodies, by media type."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_options_header

from serve.errors import BadRequest, NotAcceptable, UnsupportedMediaType
from textmodel.tokenizer import Text

__all__ = ["DECODERS", "ENCODERS", "Payload", "decode", "encoder_for"]

_TEXT_KEYS = ("inputs", "text", "instances")
_PAIR_KEY = "text_pair"
_SHAPES = (
    '{"inputs": "a text"}, {"inputs": ["a text", "another"]}, "a text", ["a text"] or, of a pair, '
    '{"inputs": {"text": "a text", "text_pair": "its other half"}}'
)


@dataclass(frozen=True)
class Payload:
    """What a client asks for."""

    texts: list[Text]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def decode(body: bytes, content_type: str | None) -> Payload:
    """Read a request body; without a content type it is taken for JSON.

    Raises:
        UnsupportedMediaType: the type is not in DECODERS.
        BadRequest: the body is not what its type promises.
    """
    media_type, options = parse_options_header(content_type or "application/json")
    decoder = DECODERS.get(media_type.lower())
    if decoder is None:
        raise UnsupportedMediaType(
            f"Content-Type {media_type!r} is not read here; send {', '.join(DECODERS)}"
        )
    charset = options.get("charset", "utf-8")
    try:
        return decoder(body.decode(charset))
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the body is not {charset}: byte 0x{body[error.start]:02x} at {error.start}. "
            "Send UTF-8, or name the encoding as charset in Content-Type"
        ) from None
    except (LookupError, ValueError):
        raise BadRequest(f"charset {charset!r} is not known; send utf-8") from None


def encoder_for(accept: MIMEAccept) -> tuple[str, Callable[[Any], bytes]]:
    """Return the media type that the client likes best of ENCODERS, and its encoder.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    if not accept:
        return next(iter(ENCODERS.items()))
    best = accept.best_match(list(ENCODERS))
    if best is None:
        raise NotAcceptable(f"Accept {accept} is not written here; accept {', '.join(ENCODERS)}")
    return best, ENCODERS[best]


def _decode_json(text: str) -> Payload:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}. Send {_SHAPES}") from None
    except RecursionError:
        raise BadRequest(f"the body is nested too deeply. Send {_SHAPES}") from None
    parameters: Any = {}
    if isinstance(value, dict):
        parameters = value.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise BadRequest('"parameters" must be an object like {"top_k": 2}')
        if _PAIR_KEY not in value:
            value = _field(value, "the object")
    return Payload(_texts(value), parameters)


def _texts(value: Any) -> list[Text]:
    if isinstance(value, list):
        return [_text(item, f"text {number}") for number, item in enumerate(value)]
    return [_text(value, "the text")]


def _text(item: Any, where: str) -> Text:
    if not isinstance(item, dict):
        return _string(item, where)
    if _PAIR_KEY not in item:
        return _string(_field(item, where), where)
    if "text" not in item or set(item) & set(_TEXT_KEYS) != {"text"}:
        raise BadRequest(f'{where} has "text_pair" without "text" beside it. Send {_SHAPES}')
    return _string(item["text"], where), _string(item[_PAIR_KEY], f"the other half of {where}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{where} is {json.dumps(value)[:40]}, not a string. Send {_SHAPES}")
    if not value.strip():
        raise BadRequest(f"{where} is empty; there is nothing to predict from")
    # JSON can hold half a surrogate pair, where a text was cut; no tokenizer takes it.
    return value.encode("utf-8", "replace").decode("utf-8")


def _field(value: Mapping[str, Any], where: str) -> Any:
    found = [key for key in _TEXT_KEYS if key in value]
    if len(found) != 1:
        keys = ", ".join(map(repr, value)) or "none"
        raise BadRequest(
            f"{where} must have one of the keys {', '.join(_TEXT_KEYS)}; it has {keys}"
        )
    return value[found[0]]


def _encode_json(answers: Sequence[Any]) -> bytes:
    return json.dumps(answers, ensure_ascii=False, allow_nan=False).encode()


DECODERS: dict[str, Callable[[str], Payload]] = {"application/json": _decode_json}
ENCODERS: dict[str, Callable[[Any], bytes]] = {"application/json": _encode_json}
