"""A script runs as `python script.py` would run it, and its failure file says why it failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from train import run_script

LOOK = """\
import sys
print(sys.argv, sys.path[0], __name__, __file__, __package__, bool(__spec__), __cached__)
print(sorted(globals()), type(__loader__).__name__, __builtins__, sys.flags)
print(sys.modules["__main__"].__dict__ is globals(), [m for m in sys.modules if "run_script" in m])
import threading, atexit
threading.Thread(target=lambda: print(sys.modules["__main__"].__file__)).start()
atexit.register(lambda: print("at exit", sys))
"""
SPAWN = """\
import multiprocessing
def work(number):
    return __name__, number + 1
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [1]))
"""

Done = subprocess.CompletedProcess[str]


def python(directory: Path, *arguments: str) -> Done:
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=60
    )


def ran(directory: Path, *arguments: str) -> Done:
    return python(directory, run_script.__file__, str(directory / "out/failure"), *arguments)


def failure(directory: Path) -> str:
    return (directory / "out/failure").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "code",
    [
        LOOK,
        SPAWN,
        "import sys; sys.exit(7)",
        "import sys; sys.exit('the reason')",
        "import sys; sys.exit()",
        "raise KeyboardInterrupt",
        "import os; os.abort()",
        "1 / 0",
        "def f():\n    try:\n        1 / 0\n    except Exception as error:\n"
        "        raise ValueError('b') from error\nf()",
        "def broken(:",
        "# coding: latin-1\nprint(ascii('\\xe9'))",
        "import sys; sys.excepthook = lambda *error: print('own hook', error[:2]); 1 / 0",
        "import types, typing, traceback, train; print(train.__file__)",
    ],
)
def test_all_is_as_python_itself_has_it(tmp_path: Path, code: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/train.py").write_text(code, encoding="utf-8")
    for arguments in (("sub/train.py", "--name", "a b"), ("-m", "sub.train", "-x")):
        plain, own = python(tmp_path, *arguments), ran(tmp_path, *arguments)
        assert own.stdout == plain.stdout
        assert own.stderr == plain.stderr
        assert own.returncode == plain.returncode


def test_failure_has_the_error_first_and_then_the_place_in_the_users_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import model\ndef main():\n    model.load()\nmain()\n")
    (tmp_path / "model.py").write_text("import json\ndef load():\n    json.loads('{')\n")
    ran(tmp_path, "train.py")
    first, second, third = failure(tmp_path).splitlines()
    assert first.startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert second == "model.py:3 in load"
    assert third.endswith(" in raw_decode")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Own(Exception): pass\nraise Own('ü')", "Own: ü\ntrain.py:2 in <module>"),
        ("assert 0", "AssertionError:\ntrain.py:1 in <module>"),
        ("import sys; sys.exit('no data')", "no data"),
        ("raise ValueError('\\ud800')", "ValueError: \\ud800\ntrain.py:1 in <module>"),
        ("x = (", "SyntaxError: '(' was never closed (train.py, line 1)"),
    ],
)
def test_failure_of_one_line(tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "train.py").write_text(code)
    ran(tmp_path, "train.py")
    assert failure(tmp_path) == reason


def test_a_long_message_leaves_room_for_the_place(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('ä' * 10_000)")
    ran(tmp_path, "train.py")
    assert len(failure(tmp_path)) == 1024
    assert failure(tmp_path).endswith("ä\ntrain.py:1 in <module>")


@pytest.mark.parametrize("code", ["pass", "raise SystemExit(3)", "raise SystemExit"])
def test_an_exit_status_is_no_reason(tmp_path: Path, code: str) -> None:
    (tmp_path / "train.py").write_text(code)
    ran(tmp_path, "train.py")
    assert not (tmp_path / "out").exists()


def test_an_error_in_a_forked_process_is_not_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os\nif os.fork():\n    os.wait()\nelse:\n    1 / 0\n"
    )
    assert ran(tmp_path, "train.py").returncode == 0
    assert not (tmp_path / "out").exists()


def test_the_scripts_own_failure_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "train.py").write_text("open('out/failure', 'w').write('my own'); 1 / 0")
    ran(tmp_path, "train.py")
    assert failure(tmp_path) == "my own"
