"""Log lines as JSON objects, one a line, for CloudWatch Logs Insights to query."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import time
from typing import Any

from gunicorn import glogging
from gunicorn.arbiter import Arbiter

__all__ = ["GunicornLogger", "Seldom", "log_to_stdout"]

REPORTS = 10.0
"""Seconds between two lines about what may happen thousands of times a second."""

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

_ECHOES = ("Worker (pid:%s) exited with code %s.", "Shutting down: %s", "Reason: %s")
"""What gunicorn says when a worker could not load its model, and has said why."""


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Seldom:
    """Tells whether it is time for another line of a kind."""

    def __init__(self) -> None:
        self._last = -math.inf

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < REPORTS:
            return False
        self._last = now
        return True


class GunicornLogger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.loglevel = logging.INFO
        self._access_log_enabled = False  # the app writes its own
        self.error_log.setLevel(self.loglevel)
        self.error_log.propagate = True
        self.error_log.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line is none of _ECHOES, so that the cause of a failure comes last."""
    if record.levelno != logging.ERROR or record.msg not in _ECHOES:
        return True
    code = f" code {Arbiter.APP_LOAD_ERROR}."
    return record.msg == _ECHOES[0] and not record.getMessage().endswith(code)


def log_to_stdout() -> None:
    """Write log lines to standard output, as CloudWatch collects them.

    What is passed as `extra` becomes keys of the object.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a line with odd characters is not lost
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
