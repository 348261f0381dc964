"""The recipes: each turns labelled texts into the files of a model directory."""

from __future__ import annotations

from importlib import import_module

from train.recipes.fitting import Fitting, Recipe

__all__ = ["Fitting", "Recipe", "load_recipe"]

_MODULES = {
    "forest": "train.recipes.forest",
    "logistic": "train.recipes.logistic",
    "finetune": "train.recipes.finetune",
}


def load_recipe(name: str) -> Recipe:
    """Return the `fit` function of a recipe, without importing what the others need."""
    fit: Recipe = import_module(_MODULES[name]).fit
    return fit
