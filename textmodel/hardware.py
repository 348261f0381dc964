"""What the machine offers, each finding with its reason, so that a log can say why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Choice", "cpu_count", "cpu_int8", "device", "free_memory", "precision", "share_cores"]

T = TypeVar("T")

_BF16_FLAGS = ("amx_bf16", "avx512_bf16")
# What lacks these adds pairs of products in 16 bits, where large ones are cut off.
_INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni")
_CGROUP_MEMORY = (
    # limit, usage and counters of cgroup v2 and v1; cached pages, and those of them in use
    ("memory.max", "memory.current", "memory.stat",
     ("active_file", "inactive_file"), "file_mapped"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     ("total_active_file", "total_inactive_file"), "total_mapped_file"),
)  # fmt: skip


_sharers = 1


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A value that was chosen, and why."""

    name: str
    value: T
    reason: str

    def __str__(self) -> str:
        return f"{self.name}={self.value} ({self.reason})"


def cpu_count(cgroup: Path = Path("/sys/fs/cgroup")) -> Choice[int]:
    """Return how many cores this process may use: the cgroup's quota, else its affinity.

    A container that may use 2 of a host's 64 cores slows down many times with 64 threads.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup)
    reason = f"{cores} cores may be used and the cgroup sets no lower limit"
    if quota is not None and quota < cores:
        reason = f"the cgroup allows {quota:g} of {cores} cores"
        cores = max(1, round(quota))
    if _sharers > 1:
        reason += f"; {_sharers} processes share them"
    return Choice("cpus", max(1, cores // _sharers), reason)


def share_cores(processes: int) -> None:
    """Have `cpu_count` tell this process its part only, beside others that compute as much.

    It is not tied to certain cores: other containers may use the same ones.
    """
    global _sharers
    _sharers = processes


def free_memory(
    cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")
) -> Choice[int]:
    """Return the bytes that this process may still take: below the cgroup's limit, or the host's.

    Cached pages of files that nothing has mapped count as free: the kernel drops them first.
    """
    lines = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    host = int(lines["MemAvailable"].split()[0]) * 1024
    read = _cgroup_memory(cgroup)
    if read is not None and read[0] - read[1] < host:
        limit, used = read
        reason = f"the cgroup allows {limit / 2**20:.0f} MB, {used / 2**20:.0f} are taken"
        return Choice("free_memory", max(0, limit - used), reason)
    return Choice("free_memory", host, "the host has it, and the cgroup sets no lower limit")


def device(requested: str = "auto") -> Choice[str]:
    """Return `cuda` where a GPU and a torch that can use it are present, else `cpu`."""
    if requested != "auto":
        return Choice("device", requested, "as requested")
    if not Path("/dev/nvidiactl").exists():  # spares CPU containers the seconds of importing torch
        return Choice("device", "cpu", "no NVIDIA device is visible")
    try:
        import torch
    except ImportError:
        return Choice("device", "cpu", "this image has no torch")
    if not torch.cuda.is_available():
        return Choice("device", "cpu", "torch cannot use the NVIDIA device")
    return Choice("device", "cuda", torch.cuda.get_device_name())


def precision(device: str, requested: str = "auto") -> Choice[str]:
    """Return `bf16` where the hardware multiplies it, else `fp32`.

    Emulated bf16 is a hundred times slower than fp32, so it is never chosen.
    """
    if requested != "auto":
        return Choice("precision", requested, "as requested")
    if device == "cuda":
        import torch

        if torch.cuda.get_device_capability() >= (8, 0):
            return Choice("precision", "bf16", "the GPU has bf16 tensor cores")
        return Choice("precision", "fp32", "the GPU has no bf16 tensor cores")
    bf16 = _cpu_flag("bf16", _BF16_FLAGS)
    return Choice("precision", "bf16" if bf16.value else "fp32", bf16.reason)


def cpu_int8() -> Choice[bool]:
    """Return whether the CPU multiplies int8 in hardware, and exactly."""
    return _cpu_flag("int8", _INT8_FLAGS)


def _cpu_flag(name: str, flags: Sequence[str]) -> Choice[bool]:
    """Return whether the CPU has one of the flags."""
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    present = next((flag for flag in flags if flag in found), None)
    if present:
        return Choice(name, True, f"the CPU has {present}")
    return Choice(name, False, f"the CPU has none of {', '.join(flags)}")


def _cgroup_quota(cgroup: Path) -> float | None:
    """Read the CPU quota in cores of cgroup v2 or v1; None where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def _cgroup_memory(cgroup: Path) -> tuple[int, int] | None:
    """Read limit and working set of cgroup v2 or v1, in bytes; None where there is no limit."""
    for limit, usage, counters, cached, mapped in _CGROUP_MEMORY:
        try:
            allowed = int((cgroup / limit).read_text(encoding="ascii"))
            used = int((cgroup / usage).read_text(encoding="ascii"))
            rows = (cgroup / counters).read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):  # the other version of cgroups, or `max`
            continue
        stat = {name: int(value) for name, value in map(str.split, rows)}
        unused = sum(stat.get(name, 0) for name in cached) - stat.get(mapped, 0)
        return allowed, used - max(0, unused)
    return None
