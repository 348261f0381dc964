"""Secrets stay out of the log and of the failure file."""

from __future__ import annotations

import re

__all__ = ["redact"]

# A tokenizer is no token.
_NAME = re.compile(r"token(?!iz)|secret|passw(or)?d|credential|api[-_]?key|private", re.IGNORECASE)
# Of the Hugging Face Hub, of AWS, of GitHub, and of OpenAI and those who took over its form.
_VALUE = re.compile(r"""(^|["'\s:=,/])(hf_|AKIA|ASIA|ghp_|sk-)""")


def redact(name: str, value: object) -> str:
    """Return the value as text, or `***` where it, its name or a name in it is a secret's."""
    text = str(value)
    nested = isinstance(value, dict | list) and _NAME.search(text)
    return "***" if nested or _NAME.search(name) or _VALUE.search(text) else text
