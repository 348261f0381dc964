"""Events as AWS sends them in streamed answers (application/vnd.amazon.eventstream).

Each is a message: its lengths with a CRC, headers, payload, and a CRC of all before it.
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Mapping

__all__ = ["CONTENT_TYPE", "event", "exception"]

CONTENT_TYPE = "application/vnd.amazon.eventstream"

TEXT = 7
"""The type of a header whose value is a text."""


def event(name: str, payload: bytes) -> bytes:
    """Encode an event whose payload is bytes."""
    headers = {
        ":message-type": "event",
        ":event-type": name,
        ":content-type": "application/octet-stream",
    }
    return _message(headers, payload)


def exception(name: str, fields: Mapping[str, str]) -> bytes:
    """Encode an exception, which ends the stream."""
    headers = {
        ":message-type": "exception",
        ":exception-type": name,
        ":content-type": "application/json",
    }
    return _message(headers, json.dumps(fields).encode())


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    head = b"".join(_header(name.encode(), text.encode()) for name, text in headers.items())
    # 16 bytes: two lengths and two CRCs
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return message + struct.pack("!I", crc32(message))


def _header(name: bytes, text: bytes) -> bytes:
    return struct.pack("!B", len(name)) + name + struct.pack("!BH", TEXT, len(text)) + text
