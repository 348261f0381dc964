"""What scripts import from AWS's toolkits, where those are not installed: types, codecs, errors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from serve.decoders import CSV, JSON, NPY
from serve.user_formats import DECODERS, ENCODERS, NPZ, Numbers, as_array, as_is

__all__ = ["provide_toolkits"]

CONTENT_TYPES = {
    "JSON": JSON,
    "CSV": CSV,
    "NPY": NPY,
    "NPZ": NPZ,
    "OCTET_STREAM": "application/octet-stream",
    "ANY": "*/*",
    "UTF8_TYPES": [JSON, CSV],
}


class UnsupportedFormatError(Exception):
    """A media type that the toolkits do not convert."""

    def __init__(self, content_type: str) -> None:
        super().__init__(f"Content type {content_type} is not supported by this framework.")


class BaseInferenceToolkitError(Exception):
    """An error with the status of the answer; the server sends `message` with it."""

    def __init__(self, status_code: int, message: str, phrase: str) -> None:
        super().__init__(status_code, message, phrase)
        self.status_code = status_code
        self.message = message
        self.phrase = phrase


class GenericInferenceToolkitError(BaseInferenceToolkitError):
    """The same, with a message to fall back on."""

    def __init__(
        self, status_code: int, message: str | None = None, phrase: str | None = None
    ) -> None:
        message = message or "Invalid Request"
        super().__init__(status_code, message, phrase or message)


def provide_toolkits() -> None:
    """Make the toolkits importable, unless they are."""
    for name, parts in _TOOLKITS.items():
        if name not in sys.modules and find_spec(name) is None:
            package = ModuleType(name, f"The part of {name} that scripts use.")
            package.__path__ = []
            sys.modules[name] = package
            for part, content in parts.items():
                module = ModuleType(f"{name}.{part}")
                vars(module).update(content)
                setattr(package, part, module)
                sys.modules[module.__name__] = module


def _decoder(numbers: Numbers) -> Any:
    def decode(content: str | bytes, content_type: str = JSON) -> Any:
        if content_type not in DECODERS:
            raise UnsupportedFormatError(content_type)
        return DECODERS[content_type](content, numbers)

    return decode


def _encode(content: Any, content_type: str = JSON) -> str | bytes:
    if content_type not in ENCODERS:
        raise UnsupportedFormatError(content_type)
    body = ENCODERS[content_type](content)
    return body if content_type == NPY else body.decode()


_TOOLKITS: dict[str, dict[str, dict[str, Any]]] = {
    "sagemaker_inference": {
        "content_types": CONTENT_TYPES,
        "decoder": {"decode": _decoder(as_array)},
        "encoder": {"encode": _encode, "SUPPORTED_CONTENT_TYPES": set(ENCODERS)},
        "errors": {
            "BaseInferenceToolkitError": BaseInferenceToolkitError,
            "GenericInferenceToolkitError": GenericInferenceToolkitError,
            "UnsupportedFormatError": UnsupportedFormatError,
        },
    },
    "sagemaker_huggingface_inference_toolkit": {
        "content_types": CONTENT_TYPES,
        "decoder_encoder": {"decode": _decoder(as_is), "encode": _encode},
    },
}
