from __future__ import annotations

import json
from typing import Any

import pytest

from tests.train.reading import GOOD, Reader, json_lines, ones
from tests.train.trees import as_csv
from train.columns import LABEL_NAMES, TEXT_NAMES
from train.data import Dataset


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


def test_message_stays_short_where_there_is_no_header(read: Reader) -> None:
    message = read.error(f"{'fire ' * 10_000},1\nfine,0\n")
    assert len(message) < 1024
    assert "the first line of a CSV file must name the columns" in message


def test_numbers_and_booleans_are_labels(read: Reader) -> None:
    rows = ({"text": "a", "label": value} for value in (1, 2.5, True, "1", " x "))
    assert read.train(json_lines(*rows)).labels == ones("1", "2.5", "true", "1", "x")


def test_missing_values_are_left_out(read: Reader) -> None:
    rows = json_lines(
        {"text": "a", "label": 1}, {"text": None, "label": 1}, {"text": "c", "label": None},
        {"text": "b", "label": 0},
    )  # fmt: skip
    assert read.train(rows).texts == ["a", "b"]


@pytest.mark.parametrize("label", [{"name": "a"}, [["a"]], [{"name": "a"}], [None]])
def test_nested_label_is_refused(read: Reader, label: Any) -> None:
    message = read.error(json_lines({"text": "a", "label": label}))
    assert message.startswith("data.jsonl line 1: the label in 'label' is ")
    assert message.endswith("it must be one string or number, or a list of them")


@pytest.mark.parametrize("text", [5, ["a"], {"a": "b"}])
def test_text_that_is_no_string_is_refused(read: Reader, text: Any) -> None:
    message = read.error(json_lines({"text": text, "label": 1}))
    assert message.startswith(f"data.jsonl line 1: the text in 'text' is {json.dumps(text)}, not")


def test_half_of_a_surrogate_pair_does_not_end_the_job(read: Reader) -> None:
    files = {"data.jsonl": '{"text": "cut \\ud83d", "label": "\\ud83d"}\n{"text":"a","label":1}\n'}
    assert read.train(files) == Dataset(["cut ?", "a"], ones("?", "1"))


def test_labels_with_commas_and_any_script_are_kept(read: Reader) -> None:
    labels = ["災害, 大", "ä\tö", "💔", 'say "x"']
    rows = [[f"text {number}", label] for number, label in enumerate(labels)]
    assert read.train(as_csv(rows)).labels == ones(*labels)


PARTS = {"headline": "Flood", "review_body": "The dam broke.", "label": 1}


def test_texts_of_several_columns_are_joined_with_a_blank(read: Reader) -> None:
    data = read.train(json_lines(PARTS, PARTS | {"label": 0}), text_column="headline, review_body")
    assert data.texts == ["Flood The dam broke."] * 2


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_empty_parts_of_a_joined_text_are_left_out(read: Reader, nothing: str | None) -> None:
    rows = [PARTS | {"headline": nothing}, PARTS | {"review_body": nothing, "label": 0}]
    data = read.train(json_lines(*rows), text_column="headline,review_body")
    assert data.texts == ["The dam broke.", "Flood"]


def test_row_without_any_part_of_its_text_is_left_out(read: Reader) -> None:
    rows = [PARTS, PARTS | {"label": 0}, PARTS | {"headline": "", "review_body": None}]
    assert len(read.train(json_lines(*rows), text_column="headline,review_body")) == 2


def test_missing_one_of_several_columns_is_named(read: Reader) -> None:
    message = read.error(json_lines(PARTS), text_column="headline,body")
    assert "there is no column 'body' (text_column)" in message


def test_column_whose_name_has_a_comma_is_found(read: Reader) -> None:
    data = read.train('"a,b",a,label\nfire,x,1\nfine,y,0\n', text_column="a,b")
    assert data.texts == ["fire", "fine"]


def test_pairs_are_tuples(read: Reader) -> None:
    files = "premise,hypothesis,label\nIt rains,It is wet,yes\nIt rains,It is dry,no\n"
    data = read.train(files, text_column="premise", text_pair_column="hypothesis")
    assert data.texts == [("It rains", "It is wet"), ("It rains", "It is dry")]


def test_second_texts_of_pairs_may_be_joined_too(read: Reader) -> None:
    data = read.train("text,a,b,label\nx,1,2,1\ny,3,,0\n", text_pair_column="a,b")
    assert data.texts == [("x", "1 2"), ("y", "3")]


def test_column_of_a_pair_is_not_taken_for_the_text(read: Reader) -> None:
    data = read.train("text,sentence,label\nx,a,1\ny,b,0\n", text_pair_column="sentence")
    assert data.texts == [("x", "a"), ("y", "b")]


def test_pair_of_which_a_text_is_missing_is_left_out(read: Reader) -> None:
    files = "text,pair,label\nx,a,1\ny,b,0\n,c,1\nz, ,1\n"
    assert len(read.train(files, text_pair_column="pair")) == 2


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        ({"text_column": "a", "text_pair_column": "a"}, "text_column and text_pair_column"),
        ({"text_column": "a,label"}, "text_column and label_column"),
        ({"text_column": "a", "text_pair_column": "label"}, "text_pair_column and label_column"),
    ],
)
def test_column_has_one_role(read: Reader, columns: dict[str, str], roles: str) -> None:
    assert f"{roles} are both" in read.error("a,label\nx,1\ny,0\n", **columns)


def test_lists_of_labels_make_the_task_multi_label(read: Reader) -> None:
    rows = ({"text": "t", "label": labels} for labels in (["b", "a"], [], [1, True], ["a", "a "]))
    data = read.train(json_lines(*rows))
    assert data == Dataset(["t"] * 4, [("a", "b"), (), ("1", "true"), ("a",)], multi_label=True)


def test_row_whose_list_is_missing_is_left_out(read: Reader) -> None:
    rows = ({"text": "t", "label": labels} for labels in (["b", "a"], None, ["a"]))
    assert len(read.train(json_lines(*rows))) == 2


@pytest.mark.parametrize(
    ("labels", "line"), [(["a", ["b"]], 2), ([["a"], "b"], 2), ([["a"], None, ["b"], 7], 4)]
)
def test_lists_beside_plain_labels_are_refused_with_the_row(
    read: Reader, labels: list[Any], line: int
) -> None:
    message = read.error(json_lines(*({"text": "t", "label": label} for label in labels)))
    assert message.startswith(f"data.jsonl line {line}: the label in 'label' is ")
    assert "write a list in every row, or in none" in message


@pytest.mark.parametrize("separator", ["|", ";", " ", "||"])
def test_separator_cuts_labels_apart(read: Reader, separator: str) -> None:
    files = f"text,label\nx,a{separator}b\ny,b\nz,\n"
    data = read.train(files, label_separator=separator)
    assert data == Dataset(["x", "y", "z"], [("a", "b"), ("b",), ()], multi_label=True)


def test_separator_leaves_blanks_and_gaps_out(read: Reader) -> None:
    data = read.train("text,label\nx, a |b||\ny,b\n", label_separator="|")
    assert data.labels == [("a", "b"), ("b",)]


def test_separator_allows_lists_and_numbers_beside_texts(read: Reader) -> None:
    rows = ({"text": "t", "label": label} for label in ("a|b", ["a|b"], 7, None))
    data = read.train(json_lines(*rows), label_separator="|")
    assert data.labels == [("a", "b"), ("a|b",), ("7",)]
