"""Run a user's script as `python` itself would, and write down why it failed.

    python run_script.py FAILURE SCRIPT [ARGUMENT]...
    python run_script.py FAILURE -m MODULE [ARGUMENT]...

This is a part of the user's process. So it imports nothing but what Python has imported before: the
directory of the script comes first on the path, and may hold a module of any name.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

LIMIT = 1024
"""Characters of the failure file that the platform shows."""


def main() -> None:
    _, failure, script, *arguments = sys.argv
    source, process = os.getcwd(), os.getpid()  # noqa: PTH109
    module = arguments.pop(0) if script == "-m" else ""
    sys.argv[:] = [script, *arguments]
    sys.path[0] = source if module else os.path.dirname(os.path.realpath(script))  # noqa: PTH120
    sys.excepthook = _print_without_this_file
    # A new one, because the script's own must hold nothing of this file.
    sys.modules["__main__"] = type(sys)("__main__")
    namespace = sys.modules["__main__"].__dict__
    namespace.update(__annotations__={}, __builtins__=sys.modules["builtins"])
    try:
        if module:
            import runpy

            runpy._run_module_as_main(module)  # type: ignore[attr-defined]
        else:
            _run_file(os.path.realpath(script), namespace)
    except BaseException as error:
        if os.getpid() == process:
            _write(failure, _reason(error, source))
        raise


def _run_file(path: str, namespace: dict[str, object]) -> None:
    """Do what `python SCRIPT` does once arguments and path are set."""
    namespace.update(
        __cached__=None,
        __file__=path,
        __loader__=type(__loader__)("__main__", path),  # type: ignore[name-defined]
    )
    with open(path, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, namespace)


def _reason(error: BaseException, source: str) -> str:
    """Return the error first, then where in the user's code it came from; empty for an exit."""
    if isinstance(error, KeyboardInterrupt):
        return ""
    if isinstance(error, SystemExit):
        return error.code[:LIMIT] if isinstance(error.code, str) else ""
    places = []
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if code.co_filename != __file__:
            places.append((code.co_filename, f":{trace.tb_lineno} in {code.co_name}"))
        trace = trace.tb_next
    own = [place for place in places if place[0].startswith(source + os.sep)]
    where = "\n".join(
        os.path.relpath(name, source) + line if (name, line) in own else name + line
        for name, line in dict.fromkeys(own[-1:] + places[-1:])
    )
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        what = f"{name}: {error}".strip()
    except Exception:
        what = name
    return f"{what[: LIMIT - len(where) - 1]}\n{where}".strip()


def _write(failure: str, reason: str) -> None:
    """Write the failure file, unless there is one: the script's own, or of who failed first."""
    if not reason:
        return
    try:
        os.makedirs(os.path.dirname(failure), exist_ok=True)  # noqa: PTH103, PTH120
        with open(failure, "x", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(reason)
    except OSError:  # the exit code still says that the script failed
        pass


def _print_without_this_file(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    main()
