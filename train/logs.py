"""The log: lines on standard output, which CloudWatch keeps."""

from __future__ import annotations

import logging
import sys

__all__ = ["log_to_stdout"]


def log_to_stdout(level: int = logging.INFO) -> None:
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout
    )
