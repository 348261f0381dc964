"""How soon a server that is full says so, and answers /ping: an open loop of new connections.

So many clients a second connect, ask, and go, whether answers come or not; a server that cannot
answer all of them has its queue full after a moment, and refuses the rest. What is measured is the
time from `connect` to the whole answer. The clients are a C program without threads, with a higher
priority than the server where that is allowed, so that their own time is next to none. (The part
`ping` of bench.serve has clients that come back as soon as they are refused: what they wait for is
mostly each other.)

Usage: python -m bench.refusals DATA [--rate 1500 --rate 4000] [--seconds 9]

Prints tables, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.serving import CACHE
from bench.serving.servers import running

SOURCE = Path(__file__).parent / "serving/arrivals.c"
SETTLE_S = 3
"""Until the queue has filled."""
PINGS_A_SECOND = 100
KEYS = ("number", "p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "longest_ms", "within_10_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the directory with disaster_tweets/")
    parser.add_argument(
        "--rate", action="append", type=int, help="requests a second; one of several"
    )
    parser.add_argument("--seconds", type=int, default=9, help="of each measurement")
    arguments = parser.parse_args()
    program = _program()
    results: dict[str, Any] = {}
    print(f"{'':34}" + "".join(f"{key:>13}" for key in KEYS))
    with running("ours-bf16", arguments.data) as server:
        for rate in arguments.rate or (1500, 4000):
            post = _start(program, server.port, "/invocations", rate, arguments.seconds)
            time.sleep(SETTLE_S)
            left = arguments.seconds - SETTLE_S
            ping = _start(program, server.port, "/ping", PINGS_A_SECOND, left)
            for what, process in (("request", post), ("ping", ping)):
                output, _ = process.communicate()
                if process.returncode:
                    sys.exit(f"no figures for {rate} requests a second")
                for status, values in json.loads(output).items():
                    name = f"{rate} a second, {what}: {status}"
                    results[name] = dict(zip(KEYS, values, strict=True))
                    print(f"{name:34}" + "".join(f"{value:>13.2f}" for value in values), flush=True)
    print(json.dumps(results))


def _program() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "arrivals"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
    return program


def _start(program: Path, port: int, path: str, rate: int, seconds: int) -> subprocess.Popen[bytes]:
    settle = SETTLE_S if path != "/ping" else 0
    command = [str(program), *map(str, (port, path, rate, seconds, settle))]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


if __name__ == "__main__":
    main()
