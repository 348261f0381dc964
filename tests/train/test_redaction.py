from __future__ import annotations

import pytest

from train.redaction import redact


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hf_token", "abc"),
        ("DB-PASSWORD", "abc"),
        ("passwd", "abc"),
        ("client_secret", 5),
        ("api-key", "abc"),
        ("apikey", "abc"),
        ("private", "abc"),
        ("credentials", {"user": "abc"}),
        ("model", "hf_abcdef"),
        ("model", '"hf_abcdef"'),
        ("user", "AKIA1234"),
        ("user", "ASIA1234"),
        ("user", "ghp_abc"),
        ("user", "sk-abc"),
        ("config", {"login": {"token": "abc"}}),
        ("config", ["a", "hf_abc"]),
        ("url", "https://hf_abc@example.org"),
    ],
)
def test_what_looks_like_a_secret_is_not_shown(name: str, value: object) -> None:
    assert redact(name, value) == "***"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("tokenizer_name", "bert"),
        ("model", "all-MiniLM"),
        ("task", "risk-score"),
        ("config", {"a": 1}),
        ("text", None),
    ],
)
def test_everything_else_is_shown(name: str, value: object) -> None:
    assert redact(name, value) == str(value)
