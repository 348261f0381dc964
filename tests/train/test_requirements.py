"""What a user's requirements.txt asks for is found, installed beside the image, or named."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.scripts import Files, script_job, wheel
from tests.train.trees import train
from train.requirements import missing

NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
SETUP = "from setuptools import setup; setup(name='my-job', version='1', packages=['my_job'])"
PACKAGE = {"setup.py": SETUP, "my_job/__init__.py": "", "my_job/__main__.py": "print('it runs')"}


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """Fail where a job has changed the environment that it runs in."""

    def state() -> list[tuple[str, int]]:
        packages = Path(sysconfig.get_path("purelib"))
        return sorted((path.name, path.stat().st_mtime_ns) for path in packages.glob("*.*-info"))

    before = state()
    yield
    assert state() == before


def lines(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "requirements.txt").write_text(text)
    return missing(tmp_path / "requirements.txt")


def run(root: Path, files: Files, program: str = "train.py", **environment: str) -> tuple[int, str]:
    return train(script_job(root, files, program), **NO_INDEX | environment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n\n",
        "torch\nNumPy>=2 # both are here\n",
        "torch>=2, \\\n  <100\n",
        "no-such-package; python_version < '3'\n",
        "boto3 --hash=sha256:00\n",
        "\ufefftorch\r\n",
    ],
)
def test_what_is_installed_is_not_missing(tmp_path: Path, text: str) -> None:
    assert lines(tmp_path, text) == []


@pytest.mark.parametrize(
    "line",
    [
        "no-such-package",
        "torch<1",
        "torch>=99",
        "torch @ https://example.org/torch.whl",
        "-r other.txt",
        "--extra-index-url https://example.org",
        "./wheels/own.whl",
        "git+https://example.org/own",
        "moto[no-such-extra,glue]<5",
    ],
)
def test_what_is_not_or_what_only_pip_can_judge_is_named(tmp_path: Path, line: str) -> None:
    assert lines(tmp_path, f"torch\n{line}\n") == [line]


def test_an_extra_needs_its_own_packages(tmp_path: Path) -> None:
    assert lines(tmp_path, "moto[server]") == []
    assert lines(tmp_path, "requests[socks]") == ["requests[socks]"]


def test_nothing_is_installed_where_the_image_has_all(tmp_path: Path) -> None:
    code, log = run(tmp_path, {"train.py": "", "requirements.txt": "torch>=2\nnumpy\n"})
    assert code == 0, log
    assert "requirements.txt: the image has all of it" in log
    assert "pip" not in log


def test_wheels_beside_it_are_used_and_what_is_installed_stays(tmp_path: Path) -> None:
    name, content = wheel("own_helper", "VALUE = 7")
    newer = wheel("six", "__version__ = 'newer'", "99.0")
    files: Files = {
        "train.py": "import six, torch; import own_helper as o; print(o.VALUE, six.__version__)",
        "requirements.txt": "own_helper\nsix>=99\ntorch>=2\n",
        f"wheels/{name}": content,
        f"wheels/{newer[0]}": newer[1],
    }
    code, log = run(tmp_path, files)
    assert code == 0, log
    assert "\n7 newer\n" in log
    assert "Successfully installed own_helper-1.0 six-99.0" in log


def test_without_network_the_missing_packages_and_the_ways_out_are_told(tmp_path: Path) -> None:
    files = {"train.py": "", "requirements.txt": "numpy\nown-helper>=3\nother-helper\n"}
    code, log = run(tmp_path, files)
    assert code == 1, log
    failure = (tmp_path / "output/failure").read_text()
    assert failure.startswith(
        "requirements.txt asks for what the image does not have: own-helper>=3, other-helper."
    )
    assert "into the image" in failure
    assert "pip download --dest wheels" in failure
    assert "reach a package index" in failure


def test_package_is_installed_without_an_index(tmp_path: Path) -> None:
    code, log = run(tmp_path, PACKAGE, "my_job")
    assert code == 0, log
    assert "\nit runs\n" in log


def test_package_that_cannot_be_installed_is_no_bug(tmp_path: Path) -> None:
    code, log = run(tmp_path, PACKAGE | {"setup.py": "1 / 0"}, "my_job")
    assert code == 1, log
    failure = (tmp_path / "output/failure").read_text()
    assert failure.startswith("the source directory, a package with a setup.py, could not be")


def test_modules_of_the_user_do_not_disturb_pip(tmp_path: Path) -> None:
    name, content = wheel("own_helper", "")
    files: Files = {
        "train.py": "import own_helper",
        "logging.py": "1 / 0",
        "pip.py": "1 / 0",
        "requirements.txt": "own_helper",
        f"wheels/{name}": content,
    }
    code, log = run(tmp_path, files)
    assert code == 0, log


def test_shell_script_installs_for_itself(tmp_path: Path) -> None:
    files = {"go.sh": "true", "requirements.txt": "no-such-package"}
    code, log = run(tmp_path, files, "go.sh")
    assert code == 0, log
