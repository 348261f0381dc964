"""The import of the user's own code, whose modules may have any names."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from serve.errors import UserCodeError
from serve.toolkits import provide_toolkits
from serve.user_errors import told_apart

__all__ = ["OURS", "import_program", "unload_program"]

OURS = ("serve", "textmodel", "train")
"""The packages of this project."""

_importing = threading.RLock()
_loaded: dict[Path, set[str]] = {}  # directories of programs, and what was imported before each


def import_program(file: Path) -> ModuleType:
    """Import a file under its own name; its directory, and `lib` in that, lead the search path.

    Where a directory has modules that are called as packages of ours, it gets its own. Modules of
    other programs, which are models beside this one, are forgotten; who has imported them, keeps
    them.

    Raises:
        UserCodeError: it cannot be imported.
    """
    directory = file.parent
    with _importing:
        for other in _loaded:
            _forget(other)
        _loaded[directory] = set(sys.modules)
        sys.path[:0] = _search_path(directory)
        importlib.invalidate_caches()
        provide_toolkits()
        try:
            with _ours_hidden(directory), told_apart(f"importing {file.name}", directory):
                module = importlib.import_module(file.stem)
            if Path(module.__file__ or "").resolve() != file.resolve():
                raise UserCodeError(
                    f"{file.name} has the name of another module, {module.__file__ or file.stem}; "
                    "call it otherwise, and say so with SAGEMAKER_PROGRAM"
                )
        except BaseException:
            unload_program(file)
            raise
    return module


def unload_program(file: Path) -> None:
    """Forget a program and the modules beside it."""
    directory = file.parent
    with _importing:
        if directory in _loaded:
            _forget(directory)
            del _loaded[directory]
        for path in _search_path(directory):
            if path in sys.path:
                sys.path.remove(path)


def _search_path(directory: Path) -> list[str]:
    return [str(directory), str(directory / "lib")]


@contextmanager
def _ours_hidden(directory: Path) -> Iterator[None]:
    """Hide those packages of ours that a directory has namesakes of."""
    same = [name for name in OURS if _has(directory, name)]
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _top(name) in same}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a model is not written to
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        for name in [name for name in sys.modules if _top(name) in same]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _forget(directory: Path) -> None:
    """Remove a program's modules, but for libraries, which may not bear a second import."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if (
            name not in _loaded[directory]
            and _top(name) not in OURS
            and file.is_relative_to(directory)
            and not {"lib", "site-packages"} & set(file.relative_to(directory).parts)
        ):
            del sys.modules[name]


def _has(directory: Path, name: str) -> bool:
    if directory.resolve() == Path(__file__).resolve().parents[1]:
        return False  # that is this project itself
    return (directory / f"{name}.py").is_file() or (directory / name / "__init__.py").is_file()


def _top(name: str) -> str:
    return name.partition(".")[0]
