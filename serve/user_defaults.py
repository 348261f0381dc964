"""What stands in for the functions that a user's program does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve.errors import UserCodeError
from serve.invocation import Clock
from serve.predictor import Predictor
from serve.records import Record, read_record
from serve.settings import Settings
from serve.text_model import all_answered
from serve.torch_script import find_torch_script, load_torch_script
from serve.user_context import Context
from serve.user_errors import told_apart
from serve.user_formats import Numbers, as_array, as_is, as_tensor, decode, encode, torch_device

__all__ = ["BuiltInModel", "Defaults"]


class BuiltInModel:
    """What the server makes of a model directory by itself, to be called like a pipeline."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        """Load the model.

        Raises:
            ArtifactError: the directory cannot be used.
        """
        self._predictor = Predictor()
        self._predictor.load(directory, settings)

    @property
    def fault(self) -> str:
        return self._predictor.fault

    def unload(self) -> None:
        self._predictor.unload()

    def __call__(self, inputs: Any, **parameters: Any) -> list[Any]:
        """Return what `/invocations` answers to texts: a list, in their order.

        Raises:
            RequestError: the texts or parameters are none.
        """
        return self.answer({"inputs": inputs, "parameters": parameters}, Clock())

    def answer(self, data: Any, clock: Clock) -> list[Any]:
        """Return the answer to a body as JSON has it."""
        record = read_record(data.tolist() if hasattr(data, "tolist") else data)
        records = [Record([text], False, record.parameters) for text in record.texts]
        return [answer.json() for answer in all_answered(self._predictor(records, clock))]


class Defaults:
    """The functions of AWS's Hugging Face container and, for other models, of its PyTorch one."""

    def __init__(self, code: Path, directory: Path, settings: Settings) -> None:
        self.model: Any = None
        """What model_fn has returned."""
        self._code = code
        self._settings = settings
        self._is_hugging_face = (directory / "config.json").is_file()

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return all, by their names; each takes a context."""
        return {
            "model_fn": self._load,
            "input_fn": self._read,
            "predict_fn": self._predict,
            "output_fn": self._write,
        }

    def _load(self, model_dir: str, context: Context) -> Any:
        directory = Path(model_dir)
        file = None if self._is_hugging_face else find_torch_script(directory)
        return load_torch_script(file) if file else BuiltInModel(directory, self._settings)

    def _read(self, input_data: str | bytes, content_type: str, context: Context) -> Any:
        return decode(input_data, content_type, self._numbers)

    def _predict(self, data: Any, model: Any, context: Context) -> Any:
        if isinstance(model, BuiltInModel):
            return model.answer(data, context.clock)
        if not callable(model):
            raise UserCodeError(
                f"there is no predict_fn, and what model_fn returned, a {type(model).__name__}, "
                "cannot be called; write predict_fn(data, model)"
            )
        with told_apart("calling what model_fn returned", self._code, answers=True):
            if _is_torch_module(model):
                return _call_module(model, data)
            parameters: dict[str, Any] = {}
            if isinstance(data, dict):
                inputs = data.pop("inputs", data)
                parameters = data.pop("parameters", None) or {}
            else:
                inputs = data
            return model(inputs, **parameters)

    def _write(self, prediction: Any, accept: str, context: Context) -> bytes:
        with told_apart(f"writing what predict_fn returned as {accept}", self._code):
            return encode(prediction, accept)

    @property
    def _numbers(self) -> Numbers:
        if self._is_hugging_face or isinstance(self.model, BuiltInModel):
            return as_is
        return as_tensor if _is_torch_module(self.model) else as_array


def _call_module(module: Any, data: Any) -> Any:
    """Return what a module of torch makes of data, where tensors go without an input_fn too."""
    torch = sys.modules["torch"]
    module = module.to(torch_device()).eval()
    if isinstance(data, torch.Tensor):
        data = data.to(torch_device())
    with torch.inference_mode():
        return module(data)


def _is_torch_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)
