"""Hosts share what is kept of their checkpoints, as the service keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_test.checkpoints import Checkpoints


@pytest.fixture
def hosts(tmp_path: Path) -> list[Path]:
    """Return the directories of two hosts, which have what is kept: the files old and both."""
    hosts = [tmp_path / "algo-1", tmp_path / "algo-2"]
    for directory in (tmp_path / "kept/0", *hosts):
        directory.mkdir(parents=True)
    for name in ("old", "both"):
        (tmp_path / "kept/0" / name).write_text("kept")
    return hosts


@pytest.fixture
def checkpoints(tmp_path: Path, hosts: list[Path]) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "kept", hosts)
    checkpoints.restore()
    return checkpoints


def kept(tmp_path: Path) -> dict[str, str]:
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    return {path.relative_to(tmp_path / "kept").as_posix(): path.read_text() for path in files}


@pytest.mark.usefixtures("checkpoints")
def test_every_host_gets_what_is_kept(hosts: list[Path]) -> None:
    assert [(host / "0/old").read_text() for host in hosts] == ["kept", "kept"]


def test_what_one_host_changes_or_deletes_is_not_undone_by_another(
    checkpoints: Checkpoints, hosts: list[Path], tmp_path: Path
) -> None:
    (hosts[0] / "0/both").write_text("changed")
    (hosts[0] / "0/old").unlink()
    (hosts[1] / "1").mkdir()
    (hosts[1] / "1/new").write_text("new")
    checkpoints.collect()
    assert kept(tmp_path) == {"0/both": "changed", "1/new": "new"}


def test_a_name_that_two_hosts_write_is_told(
    checkpoints: Checkpoints, hosts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for host in hosts:
        (host / "state").write_text(host.name)
    checkpoints.collect()
    assert kept(tmp_path)["state"] == "algo-2"
    assert "state: several hosts have written it" in capsys.readouterr().err
