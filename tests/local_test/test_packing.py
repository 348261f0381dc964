"""Archives are packed as the service packs them, and equal files make equal archives."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from local_test.packing import merge, pack


@pytest.fixture
def hosts(tmp_path: Path) -> list[Path]:
    hosts = [tmp_path / "algo-1", tmp_path / "algo-2"]
    for host in hosts:
        (host / "part").mkdir(parents=True)
        (host / f"part/{host.name}").touch()
        (host / "model").write_text(host.name)
    return hosts


def test_of_equal_names_the_last_hosts_file_stays_and_is_told(
    hosts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(merge(hosts), tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        assert archive.getnames() == ["model", "part", "part/algo-1", "part/algo-2"]
        model = archive.extractfile("model")
        assert model
        assert model.read() == b"algo-2"
    assert capsys.readouterr().err.count("several hosts have written it") == 1


def test_archives_of_equal_files_are_equal(hosts: list[Path], tmp_path: Path) -> None:
    pack(merge(hosts[:1]), tmp_path / "one.tar.gz")
    os.utime(hosts[0] / "model", (1, 1))
    pack(merge(hosts[:1]), tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_a_symbolic_link_is_told(
    hosts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hosts[0] / "link").symlink_to("model")
    pack(merge(hosts[:1]), tmp_path / "model.tar.gz")
    assert "link is a symbolic link" in capsys.readouterr().err
