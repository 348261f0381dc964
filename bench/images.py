"""How large the images are, and how long a container takes to its first answer.

Size matters because an endpoint that scales out pulls the image first, and because serverless
endpoints refuse more than 10 GB. Measured: bytes on disk above the base image, the same layers
compressed as a registry stores them (gzip), and the seconds from `docker run IMAGE serve` to the
first 200 of /ping, with the model of local_test/opt_ml (make one with local_test/train_local.sh).

Usage: python bench/images.py [--base debian:bookworm-slim] [--runs 5] [IMAGE ...]

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import statistics
import subprocess
import tarfile
import time
import zlib
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "local_test/opt_ml/model"
IMAGES = ("optml-serve-cpu:test", "optml-train-cpu:test", "optml-both-cpu:test")
PORT = 8096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="*", default=IMAGES, metavar="IMAGE")
    parser.add_argument("--base", default="debian:bookworm-slim")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    results = {}
    print(f"{'image':32}{'disk above base, MB':>22}{'compressed, MB':>18}{'to first 200, s':>18}")
    for image in arguments.images:
        disk, compressed = sizes(image, arguments.base)
        seconds = None if "train" in image else start_up(image, arguments.runs)
        results[image] = {"disk": disk, "compressed": compressed, "start_up_s": seconds}
        start = "" if seconds is None else f"{seconds:.2f}"
        print(f"{image:32}{disk / 1e6:>22.0f}{compressed / 1e6:>18.0f}{start:>18}", flush=True)
    print(json.dumps(results))


def sizes(image: str, base: str) -> tuple[int, int]:
    """Return the bytes of the image's layers that the base lacks, on disk and as pushed."""
    layers = layer_sizes(image)
    own = [layers[digest] for digest in _digests(image) if digest not in _digests(base)]
    return sum(plain for plain, _ in own), sum(compressed for _, compressed in own)


def layer_sizes(image: str) -> dict[str, tuple[int, int]]:
    """Return each layer's bytes, plain and as `docker push` sends it, by its content's digest."""
    found = {}
    with (
        subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save,
        tarfile.open(fileobj=save.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if content := archive.extractfile(member) if member.isreg() else None:
                digest, compressor = hashlib.sha256(), zlib.compressobj(6)
                compressed = 0
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
                    compressed += len(compressor.compress(chunk))
                compressed += len(compressor.flush())
                found[f"sha256:{digest.hexdigest()}"] = (member.size, compressed)
    return found


def start_up(image: str, runs: int) -> float:
    """Return the median of the seconds from `docker run` to the first 200 of /ping."""
    measured = []
    for _ in range(runs):
        started = time.monotonic()
        container = subprocess.run(
            ["docker", "run", "--detach", "--read-only", "--tmpfs", "/tmp",
             "--volume", f"{MODEL}:/opt/ml/model:ro", "--publish", f"127.0.0.1:{PORT}:8080",
             image, "serve"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        try:
            while not _answers():
                if time.monotonic() - started > 120:
                    raise SystemExit(f"{image} did not answer within 120 s")
                time.sleep(0.01)
            measured.append(time.monotonic() - started)
        finally:
            subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)
    return statistics.median(measured)


def _answers() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _digests(image: str) -> list[str]:
    inspected = subprocess.run(
        ["docker", "inspect", "--format", "{{json .RootFS.Layers}}", image],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    layers: list[str] = json.loads(inspected.stdout)
    return layers


if __name__ == "__main__":
    main()
