"""Bodies to texts and answers to bodies, by media type."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_options_header

from serve.errors import BadRequest, NotAcceptable, UnsupportedMediaType

__all__ = ["DECODERS", "ENCODERS", "Payload", "decode", "encoder_for"]

_TEXT_KEYS = ("inputs", "text", "instances")
_SHAPES = '{"inputs": "a text"}, {"inputs": ["a text", "another"]}, "a text" or ["a text"]'


@dataclass(frozen=True)
class Payload:
    """What a client asks for."""

    texts: list[str]
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
        value = _field(value, "the object")
    return Payload(_texts(value), parameters)


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    texts = []
    for number, item in enumerate(items):
        where = f"text {number}" if isinstance(value, list) else "the text"
        if isinstance(item, dict):
            item = _field(item, where)
        if not isinstance(item, str):
            raise BadRequest(f"{where} is {json.dumps(item)[:40]}, not a string. Send {_SHAPES}")
        if not item.strip():
            raise BadRequest(f"{where} is empty; there is nothing to predict from")
        # JSON can hold half a surrogate pair, where a text was cut; no tokenizer takes it.
        texts.append(item.encode("utf-8", "replace").decode("utf-8"))
    return texts


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
