"""The `context` that handler functions may take: what AWS's model servers give them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from werkzeug.datastructures import Headers

from serve.invocation import Clock
from textmodel.hardware import device

__all__ = ["Context"]


class Context:
    """One request, as multi-model-server's and TorchServe's contexts show it.

    `idx` is the place of a request in a batch, and here always 0. Names of headers may be in any
    case.

    Source: mms/context.py of multi-model-server 1.1.11.
    """

    def __init__(
        self, model_dir: Path, headers: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> None:
        self.model_name = "model"
        self.manifest: dict[str, Any] = {}
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": _gpu(),
            "batch_size": 1,
            "server_name": "optml",
            "server_version": "1",
        }
        self.clock = clock or Clock()
        """How long the request may take; not in AWS's contexts."""
        self.request_processor = [RequestProcessor(headers or {})]
        self.request_ids = {0: self.get_request_header(0, "X-Amzn-SageMaker-Inference-Id") or ""}
        self.metrics = Metrics()

    def get_request_id(self, idx: int = 0) -> str:
        return self.request_ids[idx]

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Headers:
        return self.request_processor[idx].get_request_properties()

    def get_response_headers(self, idx: int) -> Headers:
        return self.request_processor[idx].get_response_headers()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].add_response_property(key, value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.request_processor[idx].get_response_header("Content-Type")

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "Content-Type", value)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        self.set_response_status(code, phrase)


class RequestProcessor:
    """The headers of a request, and status and headers of its answer."""

    def __init__(self, request_header: Mapping[str, str]) -> None:
        self._request = Headers(list(request_header.items()))
        self._response = Headers()
        self._status, self._phrase = 200, ""

    def get_request_property(self, key: str) -> str | None:
        return self._request.get(key)

    def get_request_properties(self) -> Headers:
        return self._request

    def report_status(self, code: int, reason_phrase: str = "") -> None:
        self._status, self._phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        return self._status

    def get_response_status_phrase(self) -> str:
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._response[key] = value

    def get_response_header(self, key: str) -> str | None:
        return self._response.get(key)

    def get_response_headers(self) -> Headers:
        return self._response


class Metrics:
    """Takes what scripts report, and drops it: the platform collects nothing from there."""

    def _add(self, name: str, value: float, *more: Any, **options: Any) -> None: ...

    add_counter = add_time = add_size = add_percent = add_error = add_metric = _add


@cache
def _gpu() -> int | None:
    return 0 if device().value == "cuda" else None
