"""Log lines as JSON objects, one a line, for CloudWatch Logs Insights to query."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from gunicorn import glogging

__all__ = ["GunicornLogger", "log_to_stdout"]

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


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


class GunicornLogger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.loglevel = logging.INFO
        self._access_log_enabled = False  # the app writes its own
        self.error_log.setLevel(self.loglevel)
        self.error_log.propagate = True


def log_to_stdout() -> None:
    """Write log lines to standard output, as CloudWatch collects them.

    What is passed as `extra` becomes keys of the object.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
