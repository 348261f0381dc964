"""Hooks for the package `inference-server`, as its documentation shows them, around a pipeline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import inference_server  # type: ignore[import-not-found]
from inference_server._plugin import manager  # type: ignore[import-not-found]
from transformers import pipeline

Function = TypeVar("Function", bound=Callable[..., Any])
hook: Callable[[Function], Function] = inference_server.plugin_hook


@hook
def model_fn(model_dir: str) -> Any:
    # The package always passes /opt/ml/model.
    return pipeline("text-classification", model=os.environ["MODEL"], device="cpu")


@hook
def input_fn(input_data: bytes, content_type: str) -> Any:
    return json.loads(input_data)["inputs"]


@hook
def predict_fn(data: Any, model: Any) -> Any:
    return model(data, truncation=True)


@hook
def output_fn(prediction: Any, accept: Any) -> tuple[bytes, str]:
    return json.dumps(prediction).encode(), "application/json"


manager().register(sys.modules[__name__])
inference_server.warmup()
app = inference_server.create_app()
