"""What the processes of a container take."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["LIST_PROCESSES", "Footprint", "footprint"]

LIST_PROCESSES = """
for process in /proc/[0-9]*; do
    [ "$process" = /proc/$$ ] || echo "process $(cat "$process/status" "$process/smaps_rollup")"
done 2>/dev/null
"""
"""A shell's program that prints what `footprint` reads."""


@dataclass(frozen=True)
class Footprint:
    """Processes and their memory, in MB; what several share counts once where that is known."""

    processes: int
    threads: int
    memory: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.memory:.0f} MB in {self.processes} processes of {self.threads} threads in all, "
            f"{self.largest:.0f} MB in the largest"
        )


def footprint(listing: str) -> Footprint | None:
    """Read what `LIST_PROCESSES` printed; None if it told of no process."""
    sizes, threads = list[float](), 0
    for process in listing.split("process Name:")[1:]:
        numbers = re.findall(r"^(Pss|VmRSS|Threads):\s+(\d+)", process, re.MULTILINE)
        found = {name: int(number) for name, number in numbers}
        if "VmRSS" in found:  # else it has ended already
            # Another user's share is not told.
            sizes.append(found.get("Pss", found["VmRSS"]) * 1.024e-3)
            threads += found["Threads"]
    return Footprint(len(sizes), threads, sum(sizes), max(sizes)) if sizes else None
