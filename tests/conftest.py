"""Finished training jobs on a part of the demo data, made once by really running `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.trees import as_csv, make_tree, messages, train

SMALL_RECIPES: dict[str, dict[str, str]] = {
    "forest": {"n_estimators": "20"},
    "logistic": {},
    "finetune": {"learning_rate": "3e-4", "train_batch_size": "8", "epochs": "1"},
}


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name binary values by their argument: packed ones hold the time, and ids must not."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def _finished(factory: pytest.TempPathFactory, recipe: str, **more: str) -> Path:
    root = make_tree(
        factory.mktemp(recipe) / "ml",
        {"train": as_csv(messages(0, 150)), "test": as_csv(messages(150, 210))},
        {"recipe": recipe} | SMALL_RECIPES[recipe] | more,
    )
    code, log = train(root)
    assert code == 0, log
    (root / "log").write_text(log, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def forest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the /opt/ml tree of a finished job with the recipe forest; its output is in `log`."""
    return _finished(tmp_path_factory, "forest")


@pytest.fixture(scope="session")
def logistic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the /opt/ml tree of a finished job with the recipe logistic."""
    return _finished(tmp_path_factory, "logistic")


@pytest.fixture(scope="session")
def finetuned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the /opt/ml tree of a finished job with the recipe finetune."""
    return _finished(tmp_path_factory, "finetune")


@pytest.fixture(scope="session")
def int8_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the /opt/ml tree of a finished job with the recipe logistic, in int8 too."""
    return _finished(tmp_path_factory, "logistic", int8="true")
