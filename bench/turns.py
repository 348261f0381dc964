"""Servers, or versions of ours, against each other where the machine is not the same for long.

All are up at once and idle while another one has its turn of a few seconds, in random order. What
is compared are the turns of one round: the median of their ratios shows 2 % where servers that are
measured one after the other differ by 10 % between two runs.

A server is NAME=CONTENDER, of those in bench/serving/contenders.py, with @DIRECTORY the version of
optml that lies there, by its .venv if it has one, and with ,VARIABLE=VALUE that in its environment.
Ratios are to the first:

    python -m bench.turns DATA before=ours-int8@../before now=ours-int8 --clients 1 --clients 32

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.serving.contenders import CONTENDERS, Contender
from bench.serving.load import Figures, drive
from bench.serving.servers import Server, running
from bench.serving.texts import TEXTS, texts

SETTLE_S = 4
"""Until a server has made the graphs that so many clients need."""
KEYS = ("answers a second", "ratio", "ratio, 25 %", "ratio, 75 %", "p50 ms", "p99 ms")


@dataclass(frozen=True)
class Candidate:
    """What is started."""

    name: str
    contender: Contender
    variables: dict[str, str]

    @classmethod
    def read(cls, text: str) -> Candidate:
        """Read NAME=CONTENDER[@DIRECTORY][,VARIABLE=VALUE ...]."""
        name, _, rest = text.partition("=")
        what, *variables = rest.split(",")
        contender, _, tree = what.partition("@")
        if contender not in CONTENDERS:
            raise argparse.ArgumentTypeError(
                f"{contender!r} is none of {', '.join(CONTENDERS)}: {text}"
            )
        known = CONTENDERS[contender]
        if tree:
            directory = Path(tree).resolve()
            own = directory / ".venv/bin/python"
            python = str(own) if own.exists() else known.command[0]
            known = replace(known, tree=directory, command=(python, *known.command[1:]))
        return cls(name, known, dict(variable.split("=", 1) for variable in variables))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended too
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        prog="python -m bench.turns",
        usage="%(prog)s DATA NAME=CONTENDER[@DIRECTORY][,VARIABLE=VALUE] ... [options]",
    )
    add = parser.add_argument
    add("data", type=Path, help="the directory with disaster_tweets/ and mtsamples/")
    add("servers", nargs="+", type=Candidate.read, metavar="NAME=CONTENDER", help="the first is 1")
    add("--texts", choices=TEXTS, default="short")
    add("--clients", action="append", type=int, help="at a time; one of several; default: 32")
    add("--rounds", type=int, default=9)
    add("--seconds", type=int, default=3, help="of each turn, at least")
    given = parser.parse_intermixed_args()
    sent = texts(given.data, given.texts)
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        up = {
            one.name: stack.enter_context(
                running(one.name, given.data, one.contender, **one.variables)
            )
            for one in given.servers
        }
        print(f"{'':24}" + "".join(f"{key:>18}" for key in KEYS))
        for clients in given.clients or [32]:
            measured = _measured(up, sent, clients, given.rounds, given.seconds)
            for name, turns in measured.items():
                row = _row(turns, next(iter(measured.values())))
                results[f"{clients}/{name}"] = dict(zip(KEYS, row, strict=True))
                cells = "".join(f"{value:>18.3f}" for value in row)
                print(f"{f'{name}, {clients} clients':24}{cells}", flush=True)
    print(json.dumps(results))


def _measured(
    up: dict[str, Server], sent: list[str], clients: int, rounds: int, seconds: int
) -> dict[str, list[Figures]]:
    for server in up.values():
        drive(server, sent, clients, SETTLE_S)
    measured: dict[str, list[Figures]] = {name: [] for name in up}
    for _ in range(rounds):
        for name in random.sample(list(up), len(up)):
            measured[name].append(drive(up[name], sent, clients, seconds))
    return measured


def _row(turns: list[Figures], first: list[Figures]) -> list[float]:
    ratios = [turn.per_s / other.per_s for turn, other in zip(turns, first, strict=True)]
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return [
        statistics.median(turn.per_s for turn in turns),
        quarters[1],
        quarters[0],
        quarters[2],
        statistics.median(turn.p50_ms for turn in turns),
        statistics.median(turn.p99_ms for turn in turns),
    ]


if __name__ == "__main__":
    main()
