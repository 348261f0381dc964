"""Serving as its clients see it, beside what users would run instead.

Parts, all of them by default:

* contest: our server in each precision, AWS's Hugging Face toolkit on multi-model-server, Flask
  with a pipeline under gunicorn, infinity, inference-server and LitServe. All serve one model, a
  MiniLM classifier, and get the same real texts, another one with each request: tweets of some 20
  tokens (short), medical reports that fill the model's 512 tokens (long). `wrk` plays clients that
  each wait for an answer before they send the next text (a closed loop), over connections that are
  kept where the server keeps them. Measured are good answers a second, as a ratio to AWS's stack
  too, the latency's median and 99th percentile, the memory of all processes after that load (PSS:
  a page that several of them share counts once; RSS: it counts in each), and the seconds from the
  start of the process to the first good answer, with its files in the page cache. Before, each has
  to give 95 % of some texts the label that our engine gives them in fp32.
* engine: which share of the cores' bf16 peak is spent on answers, with 64 clients and offline.
* offline: texts as JSON Lines through HTTP, against the engine without a server.
* ping: health checks under full load, and how fast the server refuses what is too much.

The clients run on the same cores as the server, as there is no second machine; what they take is
missing in every figure, and most in those of fast servers. The machine should do nothing else.
Contenders run one at a time; with `--rounds` they take turns, and medians are reported.

Environments and the model are made on first use, from the package index, in .bench/. `wrk` is
Debian's package, multi-model-server needs Java.

Usage: python -m bench.serve DATA [contest] [engine] [offline] [ping] [options]

Prints tables, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.serving.contenders import AWS, CONTENDERS
from bench.serving.contest import contest
from bench.serving.offline import offline
from bench.serving.peak import engine
from bench.serving.pings import pings
from bench.serving.texts import TEXTS

CLIENTS = (1, 8, 32, 128)
PINGED = ("ours-bf16", AWS)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended too
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="the directory with disaster_tweets/ and mtsamples/")
    add("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    add("--contender", action="append", choices=CONTENDERS, help="one of several; default: all")
    add("--texts", action="append", choices=TEXTS, help="default: both")
    add("--clients", action="append", type=int, help="at a time; default: 1, 8, 32 and 128")
    add("--seconds", type=int, default=10, help="of each measurement, at least")
    add("--rounds", type=int, default=1, help="how often all is measured, for medians")
    add("--lines", type=int, default=100_000, help="of the part offline")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    arguments.texts = arguments.texts or list(TEXTS)
    print(json.dumps({part: PARTS[part](arguments) for part in arguments.parts or PARTS}))


PARTS: Mapping[str, Callable[[Any], Any]] = {
    "contest": lambda given: contest(
        given.data, given.contender or list(CONTENDERS), given.texts, given.clients or CLIENTS,
        given.seconds, given.rounds,
    ),
    "engine": lambda given: engine(given.data, given.texts, given.seconds, given.rounds),
    "offline": lambda given: offline(given.data, given.lines, given.rounds),
    "ping": lambda given: pings(
        given.data, given.contender or PINGED, given.texts, given.seconds
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
