"""The user's own inference code: where it lies, and whether it is meant."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.errors import UserCodeError
from serve.settings import Settings
from serve.user_errors import told_apart

__all__ = ["HANDLERS", "LOADING", "Program", "find_program"]

log = logging.getLogger(__name__)

HANDLERS = {
    "pre_model_fn": ("model_dir",),
    "model_fn": ("model_dir",),
    "model_warmup_fn": ("model_dir", "model"),
    "input_fn": ("input_data", "content_type"),
    "predict_fn": ("data", "model"),
    "output_fn": ("prediction", "accept"),
    "transform_fn": ("model", "input_data", "content_type", "accept"),
}
"""The functions that a program may have, with their parameters; a context may follow them."""
LOADING = ("pre_model_fn", "model_fn", "model_warmup_fn")
"""Those of them that answer no request."""


@dataclass(frozen=True)
class Program:
    """A file with functions for inference."""

    file: Path

    @property
    def directory(self) -> Path:
        return self.file.parent

    def defines(self) -> list[str]:
        """Return which of HANDLERS it has at its top level, without running it.

        Raises:
            UserCodeError: it is no Python.
        """
        with told_apart(f"reading {self.file.name}", self.directory):
            found = set(_names(ast.parse(self.file.read_bytes(), str(self.file)).body))
        return [name for name in HANDLERS if name in found or "*" in found]


def find_program(model: Path, settings: Settings) -> Program | None:
    """Return the user's program for a model directory; None where there is none.

    Raises:
        UserCodeError: one was asked for by name, and is not there, or it is no Python.
    """
    name = settings.program if settings.program.endswith(".py") else f"{settings.program}.py"
    # The last one is where version 3 of the SDK mounts it, in local mode.
    places = list(dict.fromkeys((model / settings.code, model / "code", model)))
    for place in places:
        if (place / name).is_file():
            program = Program(place.absolute() / name)
            if program.defines():
                return program
            log.info("%s has none of %s and is not used", program.file, ", ".join(HANDLERS))
            return None
    if settings.program_required:
        raise UserCodeError(
            f"SAGEMAKER_PROGRAM={settings.program}: there is no such file in "
            f"{', '.join(map(str, places))}; put it into code/ of the model archive, or unset "
            "the variable"
        )
    return None


def _names(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements define, without those inside functions and classes."""
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.If() | ast.Try() | ast.With():
                yield from _names(
                    child
                    for child in ast.iter_child_nodes(statement)
                    if isinstance(child, ast.stmt)
                )
                for handler in getattr(statement, "handlers", []):
                    yield from _names(handler.body)
