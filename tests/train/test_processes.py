"""The supervisor in a process of its own, as PID 1 of a container is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.trees import REPOSITORY
from train.processes import explain

SUPERVISE = """\
import os, sys
from train import processes
from train.errors import Stopped
processes.GRACE, processes.GRACE_AFTER_FAILURE = map(float, sys.argv[1:3])
supervisor = processes.Supervisor()
supervisor.listen()
commands = [processes.Command([sys.executable, "-c", code], os.environ) for code in sys.argv[3:]]
print("code", supervisor.run(commands), supervisor.stopped_by, flush=True)
"""
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
HEED = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('heard'))); "
    + SLEEP
)


def supervise(*codes: str, grace: float = 20) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(grace), "0.5", *codes],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], *signals: int) -> str:
    """Send the signals once every child is ready; return what is printed afterwards."""
    assert process.stdout
    for number in signals:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    return process.communicate(timeout=30)[0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_exit_codes_pass_through() -> None:
    assert end(supervise("pass")) == "code 0 \n"
    assert end(supervise("pass", "raise SystemExit(7)")) == "code 7 \n"
    assert end(supervise("import os; os.abort()")) == "code -6 \n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_reaches_the_child(number: signal.Signals) -> None:
    heed = HEED.replace("SIGTERM", number.name)
    assert end(supervise(heed), number) == f"heard\ncode 0 {number.name}\n"


def test_child_that_ignores_the_stop_is_killed_after_the_grace() -> None:
    assert end(supervise(DEAF, grace=0.5), signal.SIGTERM) == "code -9 SIGTERM\n"


def test_failure_of_one_process_ends_the_others() -> None:
    assert end(supervise(HEED, "import time; time.sleep(1); exit(3)")).endswith("code 3 \n")
    assert end(supervise(DEAF, "import time; time.sleep(1); exit(3)")).endswith("code 3 \n")


def test_nothing_that_a_child_started_is_left_behind() -> None:
    orphan = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(60)'], start_new_session=True).pid)"
    )
    pid, code = end(supervise(orphan)).splitlines()
    assert code == "code 0 "
    assert not alive(int(pid))


def test_program_of_a_shell_that_the_stop_ends_has_its_time() -> None:
    saving = HEED.replace("print('heard')", "[time.sleep(1), print('heard')][1]")
    shell = (
        f"import os, sys; os.execlp('sh', 'sh', '-c', '{sys.executable} -c \"$0\"; :', {saving!r})"
    )
    started = time.monotonic()
    assert end(supervise(shell), signal.SIGTERM) == "heard\ncode -15 SIGTERM\n"
    assert time.monotonic() - started < 10


def test_program_of_a_shell_that_ignores_the_stop_is_killed_after_the_grace() -> None:
    shell = (
        f"import os, sys; os.execlp('sh', 'sh', '-c', '{sys.executable} -c \"$0\"; :', {DEAF!r})"
    )
    assert end(supervise(shell, grace=1), signal.SIGTERM) == "code -15 SIGTERM\n"


def test_stop_before_anything_runs_ends_the_preparation() -> None:
    code = """\
import os, signal, time
from train.errors import Stopped
from train.processes import Supervisor
supervisor = Supervisor()
supervisor.listen()
try:
    with supervisor.preparing():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except Stopped as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=30
    )
    assert done.stdout == b"SIGTERM\n"


def test_child_dies_with_a_supervisor_that_is_killed() -> None:
    process = supervise(f"import os; print(os.getpid()); {SLEEP}")
    assert process.stdout
    pid = int(process.stdout.readline())
    end(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "out_of_memory", "cause"),
    [
        (-9, True, "out of memory: the kernel ended the job. Lower its batch size, or"),
        (137, False, "out of memory: SIGKILL ended, most likely the kernel's"),
        (-11, False, "the job crashed in native code with SIGSEGV"),
        (-15, False, "the job was ended by SIGTERM"),
        (3, False, "the job ended with exit status 3"),
    ],
)
def test_end_of_a_process_is_explained(code: int, out_of_memory: bool, cause: str) -> None:
    assert explain(code, out_of_memory, "the job", "its batch size").startswith(cause)
