"""How much of what the cores can do in bf16 ends up in answers.

The peak is a chain of large matrix products that OpenVINO runs in bf16 on all cores. What a text
needs is counted from the model's shape, without padding, softmax, normalisation and activations:
a text of L tokens, special tokens included, needs in each of the layers

    2 L (4 h h + 2 h i)    for the products with the weights: queries, keys, values, output, and
                           the two of the feed-forward part
    4 L L h                for queries by keys, and attention by values

and once 2 (h h + h labels) for the pooler and the classifier on its first token, where h is the
hidden and i the intermediate size. A product of n by k and k by m is 2 n k m operations.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.serving import ROOT
from bench.serving.load import drive
from bench.serving.models import MODELS
from bench.serving.reference import reference
from bench.serving.servers import running
from bench.serving.texts import texts

__all__ = ["engine", "operations"]

CLIENTS = 64
OFFLINE_TEXTS = {"short": 7000, "long": 700}
SIZE, LAYERS = 2048, 8
PEAK_S = 3


def engine(data: Path, sets: Sequence[str], seconds: int, rounds: int) -> dict[str, float]:
    """Return the share of the peak that the server uses with 64 clients, and the engine offline."""
    results: dict[str, float] = {}
    model = MODELS["ours"](data) / "model"
    print(
        f"\n{'':12}{'peak GFLOP/s':>14}{'texts/s':>10}{'tokens/s':>10}{'GFLOP/s':>10}{'share':>8}"
    )
    for kind in sets:
        sent = texts(data, kind)
        flops, tokens = operations(model, sent)
        found: dict[str, list[tuple[float, float]]] = {"online": [], "offline": []}
        for _ in range(rounds):
            with running("ours-bf16", data) as server:
                online = drive(server, sent, CLIENTS, seconds).per_s
            peak = _peak()
            some = sent[: OFFLINE_TEXTS[kind]]
            offline = len(some) / reference(model, some, "bf16").seconds
            found["online"].append((peak, online))
            found["offline"].append((peak, offline))
        for part, pairs in found.items():
            share = statistics.median(rate * flops / peak for peak, rate in pairs)
            peak, rate = (statistics.median(values) for values in zip(*pairs, strict=True))
            results |= {
                f"{kind}/{part}/texts_per_s": rate,
                f"{kind}/{part}/tokens_per_s": rate * tokens,
                f"{kind}/{part}/share_of_peak": share,
                f"{kind}/peak_gflops": peak / 1e9,
            }
            print(
                f"{kind + ' ' + part:12}{peak / 1e9:>14.0f}{rate:>10.1f}{rate * tokens:>10.0f}"
                f"{rate * flops / 1e9:>10.0f}{share:>8.1%}",
                flush=True,
            )
    return results


def operations(model: Path, sent: Sequence[str]) -> tuple[float, float]:
    """Return the floating-point operations, and the tokens, of a text on average."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config["max_position_embeddings"])
    lengths = np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(list(sent))])
    weights = 2 * lengths * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * lengths * lengths * hidden
    head = 2 * (hidden * hidden + hidden * len(config["id2label"]))
    per_text = config["num_hidden_layers"] * (weights + attention) + head
    return float(per_text.mean()), float(lengths.mean())


def _peak() -> float:
    """Return operations a second, of the better of one stream over all cores and one a core."""
    done = subprocess.run(
        [sys.executable, "-m", __name__], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.splitlines()[-1])


def _measure_peak() -> float:
    import openvino
    from openvino import opset13 as opset

    from textmodel.hardware import cpu_count

    cores = cpu_count().value
    generator = np.random.default_rng(0)
    rows = opset.parameter([SIZE, SIZE], np.float32)
    product = rows
    for _ in range(LAYERS):
        weights = generator.normal(scale=SIZE**-0.5, size=(SIZE, SIZE)).astype(np.float32)
        product = opset.matmul(product, opset.constant(weights), False, False)
    model = openvino.Model([product], [rows], "peak")
    values = generator.normal(size=(SIZE, SIZE)).astype(np.float32)
    best = 0.0
    for streams in {1, cores}:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": cores,
        }
        queue = openvino.AsyncInferQueue(
            openvino.Core().compile_model(model, "CPU", options), streams
        )
        done = 0
        started = time.perf_counter()
        while time.perf_counter() - started < PEAK_S or done < 2 * streams:
            queue.start_async({0: values}, share_inputs=True)
            done += 1
        queue.wait_all()
        elapsed = time.perf_counter() - started
        best = max(best, done * LAYERS * 2 * SIZE**3 / elapsed)
    return best


if __name__ == "__main__":
    print(_measure_peak())
