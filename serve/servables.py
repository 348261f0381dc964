"""What a model directory is served by: the user's own code if there is any, else by itself."""

from __future__ import annotations

from pathlib import Path

from serve.invocation import Servable
from serve.settings import Settings
from serve.user_code import find_program
from textmodel.plain import check_model

__all__ = ["check", "servable_for"]


def check(directory: Path, settings: Settings) -> None:
    """Look whether a directory can be served, as far as that takes no time and no memory.

    Raises:
        ArtifactError: it holds no model.
        UserCodeError: the user's program is not there, or no Python.
    """
    if find_program(directory, settings) is None:
        check_model(directory, settings.task)


def servable_for(directory: Path, settings: Settings) -> Servable:
    """Return what serves a directory, not loaded yet.

    Raises:
        UserCodeError: the user's program is not there, or no Python.
    """
    program = find_program(directory, settings)
    if program is not None:
        from serve.handlers import UserModel

        return UserModel(program)
    from serve.text_model import TextModel

    return TextModel()
