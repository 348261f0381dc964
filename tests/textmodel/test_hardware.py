from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from textmodel.hardware import Choice, cpu_count, device, free_memory, precision

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_choice_reads_as_value_and_reason() -> None:
    assert str(Choice("cpus", 2, "the cgroup says so")) == "cpus=2 (the cgroup says so)"


def test_without_cgroup_all_cores_are_used(tmp_path: Path) -> None:
    assert cpu_count(tmp_path).value == CORES


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max", CORES), ("100000", 1), ("20000", 1), ("9900000", CORES)]
)
def test_cgroup_v2_quota_limits_the_cores(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert cpu_count(tmp_path).value == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", CORES), ("50000", 1)])
def test_cgroup_v1_quota_limits_the_cores(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cpu_count(tmp_path).value == cpus


def test_reason_names_the_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert cpu_count(tmp_path).reason == f"the cgroup allows 0.5 of {CORES} cores"


@pytest.mark.usefixtures("one_core")
def test_affinity_limits_the_cores(tmp_path: Path) -> None:
    assert cpu_count(tmp_path).value == 1


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  9000000 kB\nMemAvailable:  1024 kB\nHugePages_Total:  0\n")
    return file


def write(directory: Path, **files: str) -> None:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text + "\n")


def test_without_a_limit_the_hosts_memory_is_free(tmp_path: Path, meminfo: Path) -> None:
    assert free_memory(tmp_path, meminfo).value == 2**20
    write(tmp_path, memory__max="max", memory__current="1", memory__stat="inactive_file 0")
    assert free_memory(tmp_path, meminfo).value == 2**20


def test_cgroup_v2_counts_cached_files_as_free_unless_they_are_mapped(
    tmp_path: Path, meminfo: Path
) -> None:
    stat = "anon 7\ninactive_file 3000\nactive_file 2000\nfile_mapped 1000"
    write(tmp_path, memory__max="900000", memory__current="600000", memory__stat=stat)
    assert free_memory(tmp_path, meminfo).value == 300000 + 3000 + 2000 - 1000


def test_cgroup_v1_counts_the_same(tmp_path: Path, meminfo: Path) -> None:
    stat = "total_inactive_file 3000\ntotal_active_file 2000\ntotal_mapped_file 1000"
    files = {"memory__limit_in_bytes": "900000", "memory__usage_in_bytes": "600000"}
    write(tmp_path / "memory", **files, memory__stat=stat)
    assert free_memory(tmp_path, meminfo).value == 304000


def test_a_limit_above_what_the_host_has_does_not_count(tmp_path: Path, meminfo: Path) -> None:
    write(tmp_path, memory__max=str(2**40), memory__current="1", memory__stat="anon 0")
    assert free_memory(tmp_path, meminfo).value == 2**20


def test_reason_for_free_memory_names_the_limit(tmp_path: Path, meminfo: Path) -> None:
    write(tmp_path, memory__max=str(2**30), memory__current=str(2**30), memory__stat="anon 0")
    assert str(free_memory(tmp_path, meminfo)) == (
        "free_memory=0 (the cgroup allows 1024 MB, 1024 are taken)"
    )


def test_requested_device_and_precision_win() -> None:
    assert device("cpu") == Choice("device", "cpu", "as requested")
    assert precision("cpu", "fp32") == Choice("precision", "fp32", "as requested")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA device")
def test_without_nvidia_device_the_cpu_is_chosen() -> None:
    assert device() == Choice("device", "cpu", "no NVIDIA device is visible")


def test_bf16_is_chosen_only_where_the_cpu_multiplies_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    in_hardware = "avx512_bf16" in flags or "amx_bf16" in flags
    assert precision("cpu").value == ("bf16" if in_hardware else "fp32")
