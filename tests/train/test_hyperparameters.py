from __future__ import annotations

from typing import Any

import pytest

from train.errors import UserError
from train.hyperparameters import ALIASES, IGNORED, Hyperparameters, parse, table


@pytest.mark.parametrize(
    ("name", "sent", "value"),
    [
        ("learning_rate", "3e-5", 3e-5),
        ("learning_rate", "0.0139", 0.0139),
        ("learning_rate", '"0.0139"', 0.0139),  # a categorical value of a tuning job
        ("train_batch_size", '"256"', 256),
        ("train_batch_size", "16", 16),
        ("train_batch_size", 16, 16),
        ("train_batch_size", "16.0", 16),
        ("model_name", '"bert"', "bert"),
        ("model_name", "bert", "bert"),
        ("model_name", '"bert', '"bert'),
        ("normalize", "True", True),
        ("normalize", "true", True),
        ("normalize", '"True"', True),
        ("normalize", "False", False),
        ("normalize", '"false"', False),
        ("normalize", "0", False),
        ("normalize", True, True),
        ("max_length", "null", None),
        ("max_length", "None", None),
        ("max_length", "", None),
        ("max_length", '""', None),
        ("max_length", None, None),
        ("text_column", "1234567", "1234567"),
        ("text_column", '"1234567"', "1234567"),
        ("text_column", "1e5", "1e5"),
        ("text_column", "true", "true"),
        ("text_column", '"say \\"hi\\""', 'say "hi"'),
        ("max_features", "log2", "log2"),
        ("max_features", "0.25", 0.25),
        ("recipe", '"finetune"', "finetune"),
    ],
)
def test_value_is_read_however_it_was_sent(name: str, sent: Any, value: Any) -> None:
    found = getattr(parse({name: sent}), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "name", ["train-batch-size", "train_batch_size", "per-device-train-batch-size"]
)
def test_hyphens_are_underscores(name: str) -> None:
    assert parse({name: "7"}).train_batch_size == 7


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_alias_sets_what_it_stands_for(alias: str, name: str) -> None:
    value = "0.5" if name in ("learning_rate", "label_smoothing") else "8"
    assert getattr(parse({alias: value}), name) == getattr(parse({name: value}), name)
    assert name in parse({alias: value}).model_fields_set


def test_aliases_stand_for_hyperparameters_that_exist() -> None:
    assert set(ALIASES.values()) <= Hyperparameters.model_fields.keys()
    assert not (ALIASES.keys() | IGNORED) & Hyperparameters.model_fields.keys()


@pytest.mark.parametrize("pair", [("lr", "learning_rate"), ("batch-size", "batch_size")])
def test_hyperparameter_that_is_set_twice_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=f"{pair[1]}: {pair[0]} sets the same; give one"):
        parse(dict.fromkeys(pair, "0.1"))


@pytest.mark.parametrize(
    "name",
    [
        "_tuning_objective_metric", "sagemaker_submit_directory", "sagemaker_program",
        "sagemaker_container_log_level", "sagemaker_job_name", "sagemaker_region",
        "sagemaker_estimator_module", "sagemaker_estimator_class_name", "output-data-dir",
        *sorted(IGNORED),
    ],
)  # fmt: skip
def test_names_for_the_platform_are_accepted(name: str) -> None:
    assert parse({name: '"s3://bucket/key"'}) == parse({})


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("n_estimator", "n_estimators"), ("epoch", "epochs"), ("learning-rat", "learning_rate"),
     ("modelname", "model_name"), ("num_epochs", "num_train_epochs")],
)  # fmt: skip
def test_unknown_name_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown hyperparameter {wrong}: did you mean {nearest}"):
        parse({wrong: "1"})


def test_unknown_name_without_a_near_one_lists_all() -> None:
    with pytest.raises(UserError, match=r"known are C, batch_size, .*weight_decay"):
        parse({"qqqq": "1"})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("recipe", "svm", "one of forest, logistic, finetune"),
        ("n_estimators", "0", "a whole number, at least 1 and at most 10000"),
        ("n_estimators", "1.5", "a whole number"),
        ("n_estimators", "many", "a whole number"),
        ("max_length", "3", "a whole number, at least 4"),
        ("max_length", "[1,2]", "a whole number"),
        ("normalize", "maybe", "true or false"),
        ("normalize", '{"a": 1}', "true or false"),
        ("lr", "nan", "a number, above 0 and below 1"),
        ("learning_rate", "inf", "a number, above 0 and below 1"),
        ("learning-rate", "1", "a number, above 0 and below 1"),
        ("validation_split", "0", "a number, above 0 and below 1"),
        ("max_features", "-1", "one of sqrt, log2 or a number, above 0 and at most 1"),
        ("max_features", "2", "one of sqrt, log2 or a number, above 0 and at most 1"),
        ("text_column", 5, "a text"),
    ],
)
def test_bad_value_is_refused_with_name_value_and_what_is_allowed(
    name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse({name: value})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"hyperparameter {name}={value!r} is not allowed: it must be {allowed}")


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse({"epochs": "x", "n_estimators": "y", "nonsense": "1"})
    assert len(str(caught.value).splitlines()) == 3


def test_long_value_does_not_hide_what_is_allowed() -> None:
    with pytest.raises(UserError, match="it must be a number") as caught:
        parse({"epochs": "x" * 2500})
    assert len(str(caught.value)) < 250


def test_description_names_what_the_recipe_uses_and_no_more() -> None:
    described = parse({"recipe": "logistic", "C": "3"}).describe()
    assert "recipe=logistic, model_name=all-MiniLM-L6-v2, text_column=not set" in described
    assert "C=3" in described
    assert "epochs" not in described
    assert "n_estimators" not in described


def test_secret_that_went_astray_is_not_echoed() -> None:
    assert "model_name=***" in parse({"model_name": "hf_S3CRET"}).describe()
    for wrong in ({"epochs": "hf_S3CRET"}, {"hf_token": "S3CRET"}):
        with pytest.raises(UserError) as caught:
            parse(wrong)
        assert "S3CRET" not in str(caught.value)


def test_set_hyperparameters_that_the_recipe_does_not_use_are_named() -> None:
    assert parse({"recipe": "logistic", "lr": "0.1", "C": "1", "epochs": "1"}).unused() == [
        "epochs", "learning_rate",
    ]  # fmt: skip
    assert parse({"recipe": "finetune", "lr": "0.1"}).unused() == []


def test_table_has_a_complete_row_for_every_hyperparameter() -> None:
    assert [row[0] for row in table()] == list(Hyperparameters.model_fields)
    assert all(all(row) for row in table())


def test_table_shows_the_defaults_as_they_are_typed() -> None:
    rows = {name: default for name, default, *_ in table()}
    settings = parse({name: value for name, value in rows.items() if value != "not set"})
    assert settings.model_dump() == parse({}).model_dump()
