"""Which program serves a model directory."""

from __future__ import annotations

from pathlib import Path

from serve.invocation import Servable
from serve.settings import Settings
from serve.text_model import TextModel

__all__ = ["servable_for"]


def servable_for(directory: Path, settings: Settings) -> Servable:
    """Return what will serve the model in `directory`, not loaded yet."""
    return TextModel()
