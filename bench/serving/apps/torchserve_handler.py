"""A handler for TorchServe around a Hugging Face pipeline; it gets the batches that are formed."""

from __future__ import annotations

import json
from typing import Any

from transformers import pipeline
from ts.torch_handler.base_handler import BaseHandler  # type: ignore[import-not-found]


class Handler(BaseHandler):  # type: ignore[misc]
    def initialize(self, context: Any) -> None:
        directory = context.system_properties["model_dir"]
        self.classify: Any = pipeline("text-classification", model=directory, device="cpu")
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> list[str]:
        bodies = [row["body"] for row in data]
        return [(body if isinstance(body, dict) else json.loads(body))["inputs"] for body in bodies]

    def inference(self, data: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        return list(self.classify(data, batch_size=len(data), truncation=True))

    def postprocess(self, data: list[Any]) -> list[Any]:
        return data
