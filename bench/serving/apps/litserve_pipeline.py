"""LitServe around a Hugging Face pipeline, with the batching that its documentation recommends."""

from __future__ import annotations

import os
from typing import Any

import litserve  # type: ignore[import-not-found]
from transformers import pipeline

MAX_BATCH_SIZE = 32
BATCH_TIMEOUT_S = 0.01


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.classify = pipeline("text-classification", model=os.environ["MODEL"], device=device)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["inputs"]

    def predict(self, inputs: list[str]) -> list[Any]:
        return list(self.classify(inputs, batch_size=len(inputs), truncation=True))

    def encode_response(self, output: Any) -> list[Any]:
        return [output]


if __name__ == "__main__":
    api = Classifier(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", timeout=300)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        generate_client_file=False,
        num_api_servers=1,
    )
