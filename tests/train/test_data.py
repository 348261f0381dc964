from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.train.trees import as_csv, make_tree, messages
from train.data import HELD_OUT, LABEL_NAMES, TEXT_NAMES, Dataset, Splits, read_splits
from train.errors import UserError
from train.hyperparameters import parse
from train.job import Job
from train.world import World

Files = str | Mapping[str, str | bytes]
GOOD = "text,label\nfire,1\nflood,1\nfine,0\nfun,0\n"


class Reader:
    """Reads channels that are written on the spot."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def splits(self, channels: Mapping[str, Files], **hyperparameters: Any) -> Splits:
        inputs = hyperparameters.pop("inputs", None)
        make_tree(self.root, channels, inputs=inputs)
        return read_splits(Job(self.root), parse(hyperparameters), World())

    def train(self, files: Files, **hyperparameters: Any) -> Dataset:
        return self.splits({"train": files, "test": files}, **hyperparameters).train

    def error(self, files: Files, **hyperparameters: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.train(files, **hyperparameters)
        return str(caught.value)


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def ones(*labels: str) -> list[tuple[str, ...]]:
    return [(label,) for label in labels]


def json_lines(*rows: Any) -> dict[str, str | bytes]:
    return {"data.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}


def test_missing_channel_is_refused_with_those_that_exist(read: Reader) -> None:
    with pytest.raises(UserError, match=r"no channel named train or training.*channels: test"):
        read.splits({"test": GOOD})


def test_job_without_channels_is_refused(read: Reader) -> None:
    with pytest.raises(UserError, match="channels: none"):
        read.splits({})


def test_piped_channel_is_refused_with_the_modes_to_choose(read: Reader) -> None:
    with pytest.raises(UserError, match="input mode Pipe; set it to File or FastFile"):
        read.splits({}, inputs={"train": {"TrainingInputMode": "Pipe"}})


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_both_file_modes_are_read(read: Reader, mode: str) -> None:
    assert len(read.train(GOOD, inputs={"train": {"TrainingInputMode": mode}})) == 4


@pytest.mark.parametrize(
    "files",
    [{}, {"data.csv": ""}, {"data.csv": "text,label\n"}, {"data.jsonl": "\n\n"},
     {"data.csv": "text,label\n ,1\nfire,\n"}, {"_SUCCESS": "", ".hidden.csv": GOOD}],
)  # fmt: skip
def test_channel_without_rows_is_refused_as_empty(read: Reader, files: Files) -> None:
    assert read.error(files).startswith("the channel train is empty")


def test_empty_file_beside_a_full_one_is_no_fault(read: Reader) -> None:
    assert len(read.train({"a.csv": "", "b.csv": GOOD, "c.csv": "text,label\n"})) == 4


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_usual_text_column_is_found(read: Reader, name: str) -> None:
    assert read.train(GOOD.replace("text", name)).texts[0] == "fire"


@pytest.mark.parametrize("name", [*LABEL_NAMES, "Label", "CLASS"])
def test_usual_label_column_is_found(read: Reader, name: str) -> None:
    assert read.train(GOOD.replace("label", name)).labels[0] == ("1",)


def test_column_that_does_not_exist_is_refused_with_those_that_do(read: Reader) -> None:
    message = read.error("id,Text,label\n1,fire,1\n", text_column="text")
    assert message == (
        "data.csv line 2: there is no column 'text' (text_column); "
        "the columns are 'id', 'Text', 'label'"
    )


def test_unknown_columns_are_refused_with_what_to_set(read: Reader) -> None:
    message = read.error("a,label\nfire,1\n")
    assert "none is known to be the text column; the columns are 'a', 'label'" in message
    assert "Set the hyperparameter text_column" in message


def test_ambiguous_columns_are_refused_with_their_names(read: Reader) -> None:
    message = read.error("text,sentiment,topic\nfire,1,2\n")
    assert "'sentiment' and 'topic' could all be the label column" in message
    assert "Set the hyperparameter label_column" in message


def test_named_columns_win_over_usual_ones(read: Reader) -> None:
    files = "text,label,note,mark\nno,no,fire,1\nno,no,fine,0\n"
    data = read.train(files, text_column="note", label_column="mark")
    assert data == Dataset(["fire", "fine"], ones("1", "0"))


def test_text_and_label_must_be_two_columns(read: Reader) -> None:
    assert "both 'text'" in read.error(GOOD, label_column="text")


def test_column_name_that_occurs_twice_is_refused(read: Reader) -> None:
    assert "two columns are named 'label'" in read.error("text,label,label\nfire,1,2\n")


def test_columns_without_names_are_no_fault(read: Reader) -> None:
    assert len(read.train("text,label,,\nfire,1,,\nfine,0,,\n")) == 2


def test_message_stays_short_where_there_is_no_header(read: Reader) -> None:
    message = read.error(f"{'fire ' * 10_000},1\nfine,0\n")
    assert len(message) < 1024
    assert "the first line of a CSV file must name the columns" in message


def test_one_class_only_is_refused_with_its_name(read: Reader) -> None:
    message = read.error("text,label\na,x\nb,x\n")
    assert message.startswith("the channel train has one class only ('x' in all 2 rows)")


def test_rows_without_text_or_label_are_left_out_and_told(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(read.train(GOOD + ",1\n   ,0\nfire,\n")) == 4
    assert "3 rows without text or label are left out: data.csv line 6, data.csv" in caplog.text


def test_text_of_100_000_characters_is_kept_whole(read: Reader) -> None:
    text = "fire " * 20_000
    assert read.train(GOOD + f"{text},1\n").texts[-1] == text


def test_broken_line_is_refused_with_its_number(read: Reader) -> None:
    message = read.error('text,label\n"two\nlines",1\nfire, and water,1\n')
    assert message.startswith(
        "data.csv line 4: 3 fields where the first line names 2 (text, label)"
    )


def test_line_with_too_few_fields_is_refused(read: Reader) -> None:
    assert "data.csv line 3: 1 fields where the first line names 2" in read.error(
        "text,label\nfire,1\nflood\n"
    )


def test_unclosed_quote_is_refused_with_the_line_where_it_opens(read: Reader) -> None:
    message = read.error('text,label\nfire,1\n"flood,1\n' + "fine,0\n" * 50)
    assert message.startswith("data.csv line 3: not valid CSV")
    assert "must end with one" in message


def test_quote_that_is_not_doubled_is_refused(read: Reader) -> None:
    message = read.error('text,label\n"say "hi" now",1\n')
    assert message.startswith("data.csv line 2: not valid CSV")
    assert 'must be doubled ("")' in message


def test_quoted_line_breaks_commas_and_quotes_are_kept(read: Reader) -> None:
    data = read.train('text,label\n"one\r\ntwo, ""three""\n",1\nfine,0\n')
    assert data.texts == ['one\r\ntwo, "three"\n', "fine"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(read: Reader, end: str) -> None:
    assert read.train(GOOD.replace("\n", end)).texts == ["fire", "flood", "fine", "fun"]


def test_blank_lines_and_a_missing_last_line_end_are_no_fault(read: Reader) -> None:
    assert len(read.train("\n" + GOOD.replace("\n", "\n\n").rstrip())) == 4


LATIN = "text,label\nfire,1\nfür,0\n".encode("latin-1")


def test_wrong_encoding_is_refused_with_line_and_byte(read: Reader) -> None:
    message = read.error({"data.csv": LATIN})
    assert message.startswith("data.csv line 3: byte 0xfc is not utf-8")
    assert "set the hyperparameter encoding (utf-8, latin-1" in message


def test_wrong_encoding_far_into_a_file_is_found_on_its_line(read: Reader) -> None:
    content = b"text,label\n" + b"fire,1\n" * 50_000 + b"f\xfcr,0\n"
    assert read.error({"data.csv": content}).startswith("data.csv line 50002: byte 0xfc")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "UTF8", "utf_8"])
def test_named_encoding_is_used(read: Reader, encoding: str) -> None:
    content = "text,label\nfür,1\nfine,0\n".encode(encoding)
    assert read.train({"data.csv": content}, encoding=encoding).texts[0] == "für"


def test_file_that_is_not_utf_16_is_refused(read: Reader) -> None:
    message = read.error(GOOD, encoding="utf-16")
    assert "not utf-16" in message
    assert "set the hyperparameter encoding (utf-8" in message


def test_encoding_that_does_not_exist_is_refused(read: Reader) -> None:
    assert "encoding='klingon' is no encoding" in read.error(GOOD, encoding="klingon")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_file_is_refused_with_what_to_set(read: Reader, encoding: str) -> None:
    message = read.error({"data.csv": GOOD.encode(encoding)})
    assert message.startswith("data.csv line 1: ")
    assert "encoding" in message


def test_nul_bytes_are_refused_with_their_line(read: Reader) -> None:
    message = read.error({"data.csv": b"text,label\nfire,1\nfl\0od,1\n"})
    assert message.startswith("data.csv line 3: there are NUL bytes")


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF-8"])
def test_byte_order_mark_is_dropped(read: Reader, encoding: str) -> None:
    files = {"data.csv": b"\xef\xbb\xbf" + GOOD.encode()}
    assert len(read.train(files, encoding=encoding)) == 4


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "json", "jsonlines", "JSONL"])
def test_json_lines_are_read(read: Reader, extension: str) -> None:
    content = '{"text": "fire", "label": "1"}\n\n{"label": "0", "text": "f\\u00fcr"}'
    data = read.train({f"data.{extension}": content})
    assert data == Dataset(["fire", "für"], ones("1", "0"))


def test_line_that_is_not_json_is_refused_with_its_number(read: Reader) -> None:
    message = read.error({"data.jsonl": '{"text": "a", "label": 1}\n{"text": \n'})
    assert message.startswith("data.jsonl line 2: not valid JSON: Expecting value at column")


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_is_refused_with_the_form_that_is_wanted(
    read: Reader, indent: int | None
) -> None:
    message = read.error({"data.json": json.dumps([{"text": "a", "label": 1}], indent=indent)})
    assert message.startswith("data.json line 1: ")
    assert "each line must be an object of its own" in message
    assert "without an array around them" in message


def test_key_that_a_later_row_lacks_is_refused_with_its_line(read: Reader) -> None:
    message = read.error(json_lines({"text": "a", "label": 1}, {"text": "b", "lable": 0}))
    assert message == (
        "data.jsonl line 2: there is no 'label', which earlier lines have; it has text, lable"
    )


def test_numbers_and_booleans_are_labels(read: Reader) -> None:
    rows = ({"text": "a", "label": value} for value in (1, 2.5, True, "1", " x "))
    assert read.train(json_lines(*rows)).labels == ones("1", "2.5", "true", "1", "x")


def test_missing_values_are_left_out(read: Reader) -> None:
    rows = json_lines(
        {"text": "a", "label": 1}, {"text": None, "label": 1}, {"text": "c", "label": None},
        {"text": "b", "label": 0},
    )  # fmt: skip
    assert read.train(rows).texts == ["a", "b"]


@pytest.mark.parametrize("label", [["a"], {"name": "a"}])
def test_nested_label_is_refused(read: Reader, label: Any) -> None:
    message = read.error(json_lines({"text": "a", "label": label}))
    assert message.startswith(f"data.jsonl line 1: the label in 'label' is {json.dumps(label)}")


@pytest.mark.parametrize("text", [5, ["a"], {"a": "b"}])
def test_text_that_is_no_string_is_refused(read: Reader, text: Any) -> None:
    message = read.error(json_lines({"text": text, "label": 1}))
    assert message.startswith(f"data.jsonl line 1: the text in 'text' is {json.dumps(text)}, not")


def test_half_of_a_surrogate_pair_does_not_end_the_job(read: Reader) -> None:
    files = {"data.jsonl": '{"text": "cut \\ud83d", "label": "\\ud83d"}\n{"text":"a","label":1}\n'}
    assert read.train(files) == Dataset(["cut ?", "a"], ones("?", "1"))


@pytest.mark.parametrize("name", ["data.parquet", "data.csv.gz", "data", "data.txt"])
def test_unknown_extension_is_refused_with_those_that_are_known(read: Reader, name: str) -> None:
    message = read.error({name: GOOD})
    assert message.startswith(f"{name}: files must end in .csv, .jsonl")
    assert "text/csv" in message


@pytest.mark.parametrize("declared", ["text/csv", "Text/CSV; charset=utf-8"])
def test_content_type_says_what_an_extension_does_not(read: Reader, declared: str) -> None:
    files = {"part-0000": GOOD}
    inputs = {channel: {"ContentType": declared} for channel in ("train", "test")}
    assert len(read.train(files, inputs=inputs)) == 4


def test_nested_folders_and_several_files_are_one_channel(read: Reader) -> None:
    files = {"b/c/two.csv": GOOD, "a/one.jsonl": '{"review": "first", "rating": 5}', "_SUCCESS": ""}
    data = read.train(files)
    assert data.texts == ["first", "fire", "flood", "fine", "fun"]


@pytest.mark.parametrize("name", ["train", "training"])
def test_both_names_of_the_training_channel_are_read(read: Reader, name: str) -> None:
    assert len(read.splits({name: GOOD, "test": GOOD}).train) == 4


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for split, names in HELD_OUT.items() for name in names]
)
def test_every_name_of_a_held_out_channel_is_read(read: Reader, name: str, split: str) -> None:
    splits = read.splits({"train": GOOD, name: GOOD})
    assert list(splits.held_out) == [split]
    assert len(splits.train) == 4


def test_labels_of_the_test_channel_that_train_lacks_are_told(
    read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    splits = read.splits({"train": GOOD, "test": "text,label\na,2\nb,1\n"})
    assert splits.held_out["test"].labels == ones("2", "1")
    assert "channel test: labels that the channel train does not have" in caplog.text


def test_labels_with_commas_and_any_script_are_kept(read: Reader) -> None:
    labels = ["災害, 大", "ä\tö", "💔", 'say "x"']
    rows = [[f"text {number}", label] for number, label in enumerate(labels)]
    assert read.train(as_csv(rows)).labels == ones(*labels)


def rows(*counts: tuple[str, int]) -> list[list[str]]:
    return [[f"{label} {number}", label] for label, count in counts for number in range(count)]


def split(read: Reader, data: list[list[str]], **hyperparameters: Any) -> tuple[Dataset, Dataset]:
    splits = read.splits({"train": as_csv(data)}, **hyperparameters)
    return splits.train, splits.held_out["validation"]


def test_held_out_rows_are_stratified(read: Reader) -> None:
    train, held = split(
        read, rows(("a", 100), ("b", 20), ("c", 2), ("d", 1)), validation_split="0.2"
    )
    assert held.label_counts() == {"a": 20, "b": 4, "c": 1}
    assert train.label_counts() == {"a": 80, "b": 16, "c": 1, "d": 1}


def test_every_row_is_on_exactly_one_side(read: Reader) -> None:
    data = messages(0, 200)
    train, held = split(read, data)
    assert sorted(map(str, (*train.texts, *held.texts))) == sorted(text for text, _ in data)


def test_equal_texts_stay_on_one_side(read: Reader) -> None:
    train, held = split(read, rows(("a", 40), ("b", 40)) * 3, validation_split="0.5")
    assert not set(train.texts) & set(held.texts)
    assert len(held) == 120


def test_no_label_is_held_out_altogether(read: Reader) -> None:
    data = [*rows(("a", 10), ("b", 10)), ["a 3", "rare"], ["b 4", "rarer"]]
    for seed in range(10):
        train, _ = split(Reader(read.root / str(seed)), data, validation_split="0.9", seed=seed)
        assert train.label_counts().keys() == {"a", "b", "rare", "rarer"}


def test_seed_decides_what_is_held_out(read: Reader) -> None:
    held = [
        split(Reader(read.root / str(run)), rows(("a", 50), ("b", 50)), seed=seed)[1].texts
        for run, seed in enumerate((1, 1, 2))
    ]
    assert held[0] == held[1] != held[2]


def test_rows_of_which_none_can_be_spared_are_refused(read: Reader) -> None:
    with pytest.raises(UserError, match="2 rows are too few to hold some out"):
        read.splits({"train": as_csv(rows(("a", 1), ("b", 1)))})
