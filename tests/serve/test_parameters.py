from __future__ import annotations

import json

import pytest

from serve.errors import BadRequest
from serve.parameters import Parameters


def test_without_wishes_the_defaults_hold() -> None:
    assert Parameters.read({}) == Parameters(
        top_k=0, threshold=None, truncation=True, return_embeddings=False, return_logits=False
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 1),
        ("top_k", 10**30),
        ("top_k", None),
        ("threshold", 0),
        ("threshold", 0.25),
        ("threshold", 1),
        ("truncation", False),
        ("return_embeddings", True),
        ("return_logits", True),
    ],
)
def test_an_allowed_value_is_taken(name: str, value: object) -> None:
    assert getattr(Parameters.read({name: value}), name) == value


@pytest.mark.parametrize(("value", "top_k"), [(True, None), (False, 0)])
def test_return_all_scores_is_the_old_name_of_all_labels(value: bool, top_k: int | None) -> None:
    assert Parameters.read({"return_all_scores": value}).top_k == top_k


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("top_k", json.loads(value)) for value in ("0", "-1", '"2"', "1.5", "true", "[]")),
        *(
            ("threshold", json.loads(value))
            for value in ("-0.1", "1.1", '"0.5"', "true", "null", "NaN", "Infinity")
        ),
        *(
            (name, value)
            for name in ("truncation", "return_embeddings", "return_logits", "return_all_scores")
            for value in (1, "true", None)
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_told_with_those_that_are(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match=rf"parameter {name}=.* must be (a|true)"):
        Parameters.read({name: value})


@pytest.mark.parametrize(
    ("name", "hint"),
    [("topk", "did you mean 'top_k'"), ("zzz", "known are top_k, threshold, truncation")],
)
def test_an_unknown_name_is_told_with_the_nearest_or_all(name: str, hint: str) -> None:
    with pytest.raises(BadRequest, match=f"unknown parameter '{name}'; {hint}"):
        Parameters.read({"top_k": 1, name: 1})


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(BadRequest) as raised:
        Parameters.read({"top_k": "9" * 10_000})
    assert len(str(raised.value)) < 200
