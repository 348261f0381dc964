"""The default `model_fn` of AWS's PyTorch container: a model that torch.jit has saved.

Source: default_pytorch_inference_handler.py of sagemaker-pytorch-inference 2.0.25.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from textmodel.artifact import ArtifactError

__all__ = ["find_torch_script", "load_torch_script"]

FIRST = "model.pt"
ENDINGS = (".pt", ".pth")


def find_torch_script(directory: Path) -> Path | None:
    """Return `model.pt` of a model directory, or its only file that ends in .pt or .pth.

    Raises:
        ArtifactError: there are several, and none is called model.pt.
    """
    if (directory / FIRST).is_file():
        return directory / FIRST
    files = sorted(path for path in directory.glob("*") if path.suffix in ENDINGS)
    if len(files) > 1:
        raise ArtifactError(
            f"{directory} has several files of torch: {', '.join(path.name for path in files)}; "
            f"call the one to be served {FIRST}, or write model_fn(model_dir)"
        )
    return files[0] if files else None


def load_torch_script(file: Path) -> Any:
    """Return a module of torch, on the GPU if there is one. Nothing of it is unpickled by Python.

    Raises:
        ArtifactError: it is no TorchScript, or the image has no torch.
    """
    if find_spec("torch") is None:
        raise ArtifactError(
            f"{file.name} needs torch, which this image does not have. Serve it with an image that "
            "has (target `both`, or `serve` for GPUs), or write model_fn(model_dir) for another "
            "format"
        )
    import torch

    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.jit.load(file, device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ArtifactError(
            f"{file.name} is no TorchScript ({str(error).partition('. ')[0]:.200}). Either save it "
            f"with torch.jit.script(model).save({FIRST!r}), or write model_fn(model_dir), which "
            "loads what torch.save has written"
        ) from error
